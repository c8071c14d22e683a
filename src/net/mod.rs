//! Client connections: from bytes on a socket to batches of requests, and back, in order.
//!
//! A [`Listener`](listener::Listener) accepts; each connection is one task that
//!
//! 1. reads a chunk and parses every whole request in it,
//! 2. hands them over as one [`Batch`](batch::Batch) to the service behind it,
//! 3. takes the answers: those the service has at once, and the others as they come, in any order,
//!    through its [`ReplySender`](batch::ReplySender),
//! 4. puts them back into the order of the requests (a ring with a slot for each), and writes all
//!    that are due with one write.
//!
//! So the cost of a system call, of a message between tasks and of a layer in the service is paid
//! once for a chunk, not once for a request: a client that pipelines gets batches all the way down.
//!
//! # What it guarantees
//!
//! * Replies come in the order of the requests, one for each, whatever happens behind.
//! * What a connection holds is bounded: it reads no further while too many requests or bytes are
//!   in flight, and a client that does not read its replies gets `ERROR BUSY` in place of values
//!   that would not fit. All connections together share one [`Budget`](budget::Budget); over it,
//!   large lines and whole batches are refused with `ERROR BUSY` rather than held.
//! * Nothing is asked of a client that is idle, and what it held for its last requests is given back.
//!   One that begins a line and does not end it, or does not read its replies, is ended after a
//!   [while](patience): a short one while memory is short.
//! * A client that shuts down its sending side still gets all its replies.
//! * At shutdown a connection reads no more, answers what it has accepted, and closes.
//!
//! It knows nothing about shards, nodes or the leader: whoever wants to be a backend implements
//! `tower::Service<Batch>`.

pub mod batch;
pub mod budget;
mod connection;
pub mod listener;
mod output;
pub mod patience;
#[cfg(test)]
mod tests;
mod window;
