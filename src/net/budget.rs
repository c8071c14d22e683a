//! How many bytes all connections together may hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on bytes that many share (`limits.max_inflight_bytes`).
///
/// It counts what connections hold - lines half read, requests in flight, replies not yet written -
/// and says when that is too much. Taking from it never fails and never waits: who asks
/// [`Self::is_exhausted`] first, and refuses work when it is, keeps the overshoot to one small chunk
/// a connection.
#[derive(Clone, Debug)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// A budget of this many bytes.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Shared { limit, used: AtomicUsize::new(0) }) }
    }

    /// Whether more is held than should be.
    pub fn is_exhausted(&self) -> bool {
        self.used() > self.shared.limit
    }

    /// The bytes that may be held.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// The bytes held now.
    pub fn used(&self) -> usize {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// A share of nothing yet, which its holder resizes as it goes.
    pub fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

/// What one connection holds of a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Share {
    budget: Budget,
    bytes: usize,
}

impl Share {
    /// Tells the budget how much is held now.
    pub fn resize(&mut self, bytes: usize) {
        let used = &self.budget.shared.used;
        if bytes > self.bytes {
            used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else if bytes < self.bytes {
            used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// What is left of the budget beside what others hold.
    pub fn allowance(&self) -> usize {
        self.budget.limit().saturating_sub(self.others())
    }

    /// Whether others hold more than half of the budget: whoever holds memory without need is then
    /// to give it back.
    pub fn is_crowded(&self) -> bool {
        self.others() > self.budget.limit() / 2
    }

    fn others(&self) -> usize {
        self.budget.used().saturating_sub(self.bytes)
    }

    /// The budget it is a share of.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_come_back() {
        let budget = Budget::new(100);
        let (mut first, mut second) = (budget.share(), budget.share());
        first.resize(60);
        second.resize(40);
        assert!(!budget.is_exhausted(), "exactly full is not too full");
        second.resize(41);
        assert!(budget.is_exhausted());
        assert_eq!((first.allowance(), second.allowance()), (59, 40));
        assert!(!first.is_crowded() && second.is_crowded());
        drop(first);
        assert_eq!(budget.used(), 41);
        assert_eq!(second.allowance(), 100, "it may have all that others do not");
        second.resize(5);
        assert_eq!(budget.used(), 5);
        drop(second);
        assert_eq!(budget.used(), 0);
    }
}
