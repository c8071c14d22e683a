//! What simulated processes log, in simulated time, to be read.

use std::fmt;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        match turmoil::sim_elapsed() {
            Some(elapsed) => write!(writer, "{:>7} ms", elapsed.as_millis()),
            None => write!(writer, "{:>10}", ""),
        }
    }
}

/// From now on everything is printed.
pub(super) fn start() {
    let filter = EnvFilter::new("info,turmoil=info,hatokuse=debug");
    let printing = tracing_subscriber::fmt().with_timer(SimulatedTime).with_env_filter(filter);
    let _ = printing.with_ansi(false).with_test_writer().try_init();
}
