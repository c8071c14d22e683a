//! What travels and what lies on disk, as bytes: pure encoders and parsers, no input or output.
//!
//! Every parser here takes bytes from a network or a file, so each bounds what it reads before it
//! believes a length, and answers malformed input with an error that says what was wrong. Nothing
//! here panics, allocates by a foreign length, or knows about sockets and files.
//!
//! * [`record`]: one version of one key; the same bytes on the wire and on disk.
//! * [`control`]: instructions to a store, carried in records.
//! * [`command`]: what clients ask for.
//! * [`mod@line`]: the line protocol, as requests.
//! * [`reply`]: what comes back, and how each mode writes it.

pub mod command;
pub mod control;
pub mod line;
pub mod record;
pub mod reply;
