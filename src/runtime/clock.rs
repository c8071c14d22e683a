//! The clocks.
#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use crate::types::Moment;

/// Now, on a clock that never goes back and starts near zero with the process.
pub fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    #[cfg(test)]
    if let Some(elapsed) = turmoil::sim_elapsed() {
        return Moment(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX));
    }
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Moment(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970 by the machine's clock, which may jump: for people and expiry only.
pub fn wall_milliseconds() -> i64 {
    #[cfg(test)]
    if let Some(since) = turmoil::since_epoch() {
        return i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
