//! The operators' port: health and metrics over HTTP, the same for leader and nodes.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | whether the process should be left running |
//! | `/readyz` | whether it should be sent work |
//! | `/healthz` | whether an operator need not look |
//! | `/metrics` | everything in the registry, as Prometheus scrapes it |
//! | `/api/v1/...` | operators' commands, where the owner has any ([`api`]) |
//!
//! The three questions are answered with 200, or with 503 and the reasons as JSON; `?verbose` shows
//! every check that was made. What is checked is the business of whoever owns the port: it
//! implements [`Health`], which a closure also does.
//!
//! Whoever asks here must never slow down the data path: a request has a time limit and a small
//! body limit, and a scrape reads counters that the data path adds to without locks.

mod api;
mod problem;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tower::ServiceBuilder;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

pub use api::api;
pub use problem::Problem;

use crate::runtime::listen::{ListenError, listen};
use crate::runtime::metrics;
use crate::runtime::sockets::TcpListener;
use crate::runtime::tasks::Tasks;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What a request for health or metrics may carry.
const MAX_BODY_BYTES: usize = 4 << 10;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Should the process be left running?
    Live,
    /// Should it be sent work?
    Ready,
    /// Is all as it should be?
    Healthy,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, like `partitions`.
    pub check: &'static str,
    /// What is wrong and what to do; none if it is in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Check {
    /// Something that is in order.
    pub fn passed(check: &'static str) -> Self {
        Self { check, reason: None }
    }

    /// Something that is not.
    pub fn failed(check: &'static str, reason: impl Into<String>) -> Self {
        Self { check, reason: Some(reason.into()) }
    }
}

/// Knows how its owner does.
pub trait Health: Send + Sync + 'static {
    /// Looks at everything that matters for the question. No check at all is a yes.
    fn checks(&self, probe: Probe) -> Vec<Check>;
}

impl<F> Health for F
where
    F: Fn(Probe) -> Vec<Check> + Send + Sync + 'static,
{
    fn checks(&self, probe: Probe) -> Vec<Check> {
        self(probe)
    }
}

/// What an admin port needs to know.
pub struct Options {
    /// Where to listen; port 0 picks a free port.
    pub address: SocketAddr,
    /// Answers the probes.
    pub health: Arc<dyn Health>,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("address", &self.address).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Shared {
    health: Arc<dyn Health>,
    registry: Arc<Registry>,
}

/// An admin port that listens.
#[derive(Debug)]
pub struct Admin {
    socket: TcpListener,
    address: SocketAddr,
    routes: Router,
}

impl Admin {
    /// Listens. Who asks waits until [`Self::start`].
    pub async fn bind(options: Options) -> Result<Self, ListenError> {
        let (socket, address) = listen(options.address).await?;
        let routes = routes(Shared { health: options.health, registry: options.registry });
        Ok(Self { socket, address, routes })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves these as well.
    #[must_use]
    pub fn with_routes(mut self, more: Router) -> Self {
        self.routes = self.routes.merge(more);
        self
    }

    /// Answers until the tasks are told to stop; what was asked before is still answered.
    pub fn start(self, tasks: &Tasks) {
        let layers = ServiceBuilder::new()
            // "Not ready" is an answer, not a failure worth a line in the log.
            .layer(TraceLayer::new_for_http().on_failure(()))
            .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, REQUEST_TIMEOUT));
        let (socket, routes) = (self.socket, self.routes.layer(layers));
        let stop = tasks.clone();
        tasks.spawn(async move {
            let stopping = async move { stop.stopping().await };
            if let Err(error) = axum::serve(socket, routes).with_graceful_shutdown(stopping).await {
                tracing::error!(%error, "the admin port ended");
            }
        });
    }
}

fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(async |state, query| probe(Probe::Live, state, query)))
        .route("/readyz", get(async |state, query| probe(Probe::Ready, state, query)))
        .route("/healthz", get(async |state, query| probe(Probe::Healthy, state, query)))
        .route("/metrics", get(scrape))
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .with_state(shared)
}

/// The answer to a probe.
#[derive(Serialize)]
struct Report {
    status: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<Check>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Check>>,
}

fn probe(
    probe: Probe,
    State(shared): State<Shared>,
    RawQuery(query): RawQuery,
) -> (StatusCode, Json<Report>) {
    let checks = shared.health.checks(probe);
    let failed = |check: &&Check| check.reason.is_some();
    let reasons: Vec<Check> = checks.iter().filter(failed).cloned().collect();
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    let checks = is_verbose(query.as_deref()).then_some(checks);
    (code, Json(Report { status, reasons, checks }))
}

fn is_verbose(query: Option<&str>) -> bool {
    let mut parts = query.unwrap_or_default().split('&');
    parts.any(|part| matches!(part, "verbose" | "verbose=" | "verbose=1" | "verbose=true"))
}

async fn scrape(State(shared): State<Shared>) -> Response {
    match metrics::encode(&shared.registry) {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
impl axum::serve::Listener for TcpListener {
    type Io = crate::runtime::sockets::TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok(accepted) = Self::accept(self).await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        Self::local_addr(self)
    }
}

#[cfg(test)]
mod tests;
