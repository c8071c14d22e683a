//! A load driver that believes nothing: it reads and checks every reply.
//!
//! Clients in a closed loop: each sends a batch of [`Load::pipeline`] requests at once, waits until
//! all of them are answered, and sends the next. So the load adapts to the server, and what is
//! measured is what a server gives to that many clients that wait for it.
//!
//! It speaks three protocols - ours, Redis's and etcd's ([`Protocol`]) - with the same clients, the
//! same keys and the same mix, so that systems can be compared.
//!
//! What it guarantees:
//!
//! * **A figure stands for replies that were right.** Each client has keys of its own and knows
//!   what it last stored under each: a `GET` must return exactly that. A wrong value, a
//!   key that is gone, a reply that is missing, comes twice or means nothing ends the run with
//!   [`BenchError`]; there is no figure then.
//! * A write that the server refused may have taken effect or not, and reads may show either from
//!   then on. Refusals, and writes acknowledged with fewer copies than asked for, are counted
//!   ([`Measurement::refused`], [`Measurement::degraded`]), never hidden.
//! * A write counts as done when it is as safe as was asked for: with Redis, when `WAIT` has said
//!   that the replicas have it, not when the primary has.
//! * The driver is one thread ([`Driver`]), which parses by the chunk and writes by the batch. What
//!   it costs itself is part of the figures ([`Process`]), so that nobody takes the driver's limit
//!   for the server's.
//!
//! Throughput is of the requests that were *answered* in the measured time; latencies are of those
//! that were *begun* in it, however long they took: a stall at the end is not cut off.

mod book;
mod client;
mod driver;
mod error;
mod etcd;
mod load;
mod recorder;
mod session;
mod usage;
mod value;
mod wire;

#[cfg(test)]
mod tests;

pub mod options;
pub mod report;

pub use driver::Driver;
pub use error::BenchError;
pub use load::{Load, Mix, Operation, Protocol, Target};
pub use recorder::{Measurement, Sample};
pub use usage::{Machine, Process};
