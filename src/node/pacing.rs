//! How fast copies pass through this node, in both directions.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::figures::Figures;
use crate::logic::pace::Pace;
use crate::runtime::clock;

/// The pace of copies that are made here, and of those that are given to others: each has its own.
#[derive(Debug)]
pub(crate) struct Pacing {
    figures: Arc<Figures>,
    taking: Mutex<Pace>,
    giving: Mutex<Pace>,
}

impl Pacing {
    /// At most so many bytes per second in each direction; nothing is no limit.
    pub(crate) fn new(most: Option<NonZeroU64>, figures: Arc<Figures>) -> Self {
        let (taking, giving) = (Mutex::new(Pace::new(most)), Mutex::new(Pace::new(most)));
        Self { figures, taking, giving }
    }

    /// So many bytes have come for a copy that is made here: how long the next have to wait.
    pub(crate) fn taken(&self, bytes: usize) -> Duration {
        self.figures.copied(bytes);
        self.pause(&self.taking, bytes)
    }

    /// So many bytes are to be given to another store: how long they have to wait.
    pub(crate) fn give(&self, bytes: usize) -> Duration {
        self.pause(&self.giving, bytes)
    }

    fn pause(&self, pace: &Mutex<Pace>, bytes: usize) -> Duration {
        let foreground = self.figures.foreground();
        pace.lock().take(clock::now(), bytes as u64, foreground)
    }
}
