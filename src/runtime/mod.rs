//! Where the outside world comes in: clocks, random identities, tasks, signals, logs and metrics.
//!
//! Everything nondeterministic that the lints forbid elsewhere is wrapped here, once, so that the
//! floors above stay testable and the pure floors below stay pure.

pub mod clock;
pub mod files;
pub mod identity;
pub mod listen;
pub mod metrics;
pub mod signals;
pub mod sockets;
pub mod tasks;
pub mod telemetry;
pub mod workers;
