//! What leader and nodes say to each other: the code generated from `proto/hatokuse/v1`, and the
//! little that stands between it and the rest.
//!
//! * [`v1`]: messages and services, as generated.
//! * [`convert`]: between messages and [`types`](crate::types). Whatever comes from the network is
//!   checked here, once: an identity of 15 bytes or a partition beyond 65,535 is [`Malformed`], and
//!   no floor above has to think about it.
//! * [`transport`]: servers and channels with the settings that all of them share. Windows hold
//!   64 batches, so that a link is never slowed by flow control while its peer works; a connection
//!   that is dead is noticed by keepalive even if nothing is sent.

pub mod convert;
pub mod transport;

pub use convert::Malformed;

/// Messages and services of `proto/hatokuse/v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated code; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("hatokuse.v1");
}
