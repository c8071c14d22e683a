//! Tasks that end together, within a deadline.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of one component, and the word that they should end. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task that is waited for by [`Self::finish`]. It must watch [`Self::stopping`].
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(task);
    }

    /// Completes once the tasks were told to stop.
    pub async fn stopping(&self) {
        self.stop.cancelled().await;
    }

    /// Whether the tasks were told to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Tells the tasks to stop, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Tells the tasks to stop and waits for them, at most this long. Says whether all ended.
    pub async fn finish(&self, within: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }
}
