//! What is counted, while the measured time runs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::load::Operation;
use crate::types::Moment;

/// Latencies are told apart to three digits.
const DIGITS: u8 = 3;
/// Longer ones, in microseconds, count as this long.
const LONGEST: u64 = 600_000_000;

/// The measured time, as the controlling thread sets it and the driver's reads it.
#[derive(Debug)]
pub(super) struct Window {
    begin: AtomicU64,
    end: AtomicU64,
    stopped: AtomicBool,
}

impl Window {
    /// Not begun.
    pub(super) fn new() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Self { begin: never(), end: never(), stopped: AtomicBool::new(false) }
    }

    pub(super) fn begin(&self, now: Moment) {
        self.begin.store(now.0, Ordering::Relaxed);
    }

    pub(super) fn end(&self, now: Moment) {
        self.end.store(now.0, Ordering::Relaxed);
        self.stop();
    }

    /// No client is to begin anything any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn holds(&self, moment: Moment) -> bool {
        let (begin, end) = (self.begin.load(Ordering::Relaxed), self.end.load(Ordering::Relaxed));
        (begin..end).contains(&moment.0)
    }

    fn length(&self) -> Duration {
        Moment(self.end.load(Ordering::Relaxed)).since(Moment(self.begin.load(Ordering::Relaxed)))
    }
}

/// One operation's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was sent, in microseconds of the process's clock.
    pub begun: Moment,
    /// From then to the reply, in microseconds.
    pub micros: u32,
    /// Whose it was.
    pub client: u16,
    /// What it was.
    pub operation: Operation,
}

/// How one operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending<'a> {
    /// As asked for.
    Done,
    /// On fewer copies.
    Degraded,
    /// Refused, with this text.
    Refused(&'a [u8]),
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The measured time.
    pub time: Duration,
    /// Operations that were answered in it, refused ones apart.
    pub answered: u64,
    /// Writes acknowledged with fewer copies than asked for, among them.
    pub degraded: u64,
    /// Operations that the server refused.
    pub refused: u64,
    /// What it said to the first of them.
    pub refusal: Option<String>,
    /// Latencies, in microseconds, of the operations that were begun in the measured time.
    pub latencies: Histogram<u64>,
    /// Every operation's time, if asked for.
    pub samples: Vec<Sample>,
}

impl Measurement {
    /// Operations per second.
    pub fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
        let answered = self.answered as f64;
        answered / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The latency that this share of the operations did not exceed.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(share))
    }

    /// The longest latency.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.latencies.max())
    }
}

/// Counts what the clients of one thread report.
#[derive(Debug)]
pub(super) struct Recorder {
    measurement: Measurement,
    keeps_samples: bool,
}

impl Recorder {
    /// Nothing counted yet.
    ///
    /// # Panics
    /// Never: the bounds of the histogram are constants that it accepts.
    #[allow(clippy::expect_used, reason = "constants")]
    pub(super) fn new(keeps_samples: bool) -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds are right");
        let measurement = Measurement {
            time: Duration::ZERO,
            answered: 0,
            degraded: 0,
            refused: 0,
            refusal: None,
            latencies,
            samples: Vec::new(),
        };
        Self { measurement, keeps_samples }
    }

    /// Counts one operation that has ended.
    pub(super) fn record(
        &mut self,
        window: &Window,
        (client, operation): (usize, Operation),
        (begun, ended): (Moment, Moment),
        ending: Ending<'_>,
    ) {
        if window.holds(ended) {
            self.count(ending);
        }
        if !window.holds(begun) || matches!(ending, Ending::Refused(_)) {
            return;
        }
        let took = ended.0.saturating_sub(begun.0);
        self.measurement.latencies.saturating_record(took);
        if self.keeps_samples {
            let micros = u32::try_from(took).unwrap_or(u32::MAX);
            let client = u16::try_from(client).unwrap_or(u16::MAX);
            self.measurement.samples.push(Sample { begun, micros, client, operation });
        }
    }

    fn count(&mut self, ending: Ending<'_>) {
        let measurement = &mut self.measurement;
        match ending {
            Ending::Done => measurement.answered += 1,
            Ending::Degraded => {
                measurement.answered += 1;
                measurement.degraded += 1;
            }
            Ending::Refused(text) => {
                measurement.refused += 1;
                measurement.refusal.get_or_insert_with(|| super::error::shown(text));
            }
        }
    }

    /// The figures of the measured time, which has ended.
    pub(super) fn finish(self, window: &Window) -> Measurement {
        Measurement { time: window.length(), ..self.measurement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_when_they_come_and_latencies_when_they_begin() {
        let window = Window::new();
        let mut recorder = Recorder::new(true);
        let mut record = |begun, ended, ending| {
            let moments = (Moment(begun), Moment(ended));
            recorder.record(&window, (3, Operation::Set), moments, ending);
        };
        record(10, 20, Ending::Done);
        window.begin(Moment(1_000_000));
        record(999_000, 1_000_500, Ending::Done);
        record(1_000_100, 1_000_400, Ending::Degraded);
        record(1_000_100, 1_000_300, Ending::Refused(b"BUSY later"));
        window.end(Moment(3_000_000));
        record(2_000_000, 9_000_000, Ending::Done);
        record(3_000_001, 9_000_001, Ending::Done);

        let figures = recorder.finish(&window);
        assert_eq!((figures.answered, figures.degraded, figures.refused), (2, 1, 1));
        assert_eq!(figures.refusal.as_deref(), Some("BUSY later"));
        assert_eq!(figures.time, Duration::from_secs(2));
        assert!((figures.rate() - 1.0).abs() < 1e-9);
        let stall = figures.longest().as_secs_f64();
        assert!((7.0..7.01).contains(&stall), "a stall at the end is not cut off: {stall}");
        let times: Vec<_> = figures.samples.iter().map(|sample| sample.micros).collect();
        assert_eq!(times, [300, 7_000_000]);
    }
}
