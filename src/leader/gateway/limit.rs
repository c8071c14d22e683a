//! Lets batches through while all connections together hold no more than they should.

use std::task::{Context, Poll, ready};

use tower::{Layer, Service};

use crate::net::batch::Batch;
use crate::net::budget::Budget;

/// Puts [`InflightBytes`] before a service.
#[derive(Clone, Debug)]
pub struct InflightBytesLayer {
    budget: Budget,
}

impl InflightBytesLayer {
    /// Keeps to this budget.
    pub fn new(budget: Budget) -> Self {
        Self { budget }
    }
}

impl<S> Layer<S> for InflightBytesLayer {
    type Service = InflightBytes<S>;

    fn layer(&self, inner: S) -> Self::Service {
        InflightBytes { budget: self.budget.clone(), inner }
    }
}

/// Is ready only while the budget is not exhausted.
///
/// It counts nothing itself: what is in flight is over only when its reply was written, which only
/// the connection sees, so connections keep the budget's books. It stands below a load-shedding
/// layer, which turns "not ready" into a refusal; one that waited instead would ask over and over.
#[derive(Clone, Debug)]
pub struct InflightBytes<S> {
    budget: Budget,
    inner: S,
}

impl<S: Service<Batch>> Service<Batch> for InflightBytes<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.inner.poll_ready(context))?;
        if self.budget.is_exhausted() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, batch: Batch) -> Self::Future {
        self.inner.call(batch)
    }
}
