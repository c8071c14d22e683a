//! Operators' commands over HTTP: what all routes under `/api/v1` have in common.
//!
//! `GET` looks and never changes anything; `POST` changes something. Answers are JSON, and whatever
//! cannot be done is a [`Problem`].
//!
//! A browser on the operator's machine reaches a port on loopback too, on behalf of whatever page it
//! shows. So a command must say that it carries JSON, which a page of another origin may not without
//! being allowed to, and one that names another origin is refused.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use tower_http::limit::RequestBodyLimitLayer;

use super::problem::Problem;

/// What a command may carry.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Puts routes under `/api/v1`, and guards them.
pub fn api(routes: Router) -> Router {
    let routes = routes
        .fallback(async || {
            Problem::not_found("there is nothing at this path")
                .with_hint("docs/OPERATIONS.md lists the paths under /api/v1")
        })
        .method_not_allowed_fallback(async |method: Method| {
            let detail = format!("{method} cannot be done here");
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
                .with_hint("GET looks, POST changes something")
        })
        .layer(RequestBodyLimitLayer::new(MAX_BODY_BYTES))
        .layer(middleware::from_fn(guard));
    Router::new().nest("/api/v1", routes)
}

async fn guard(request: Request, next: Next) -> Response {
    match objection(request.method(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

/// Why a request is not passed on, if it is not.
fn objection(method: &Method, headers: &HeaderMap) -> Option<Problem> {
    if matches!(*method, Method::GET | Method::HEAD) {
        return None;
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let own = text(header::HOST).unwrap_or_default();
    let foreign = |origin: &&str| origin.split_once("://").map(|(_, host)| host) != Some(own);
    if let Some(origin) = text(header::ORIGIN).filter(foreign) {
        let detail = format!("a page of {} may not command this cluster", origin.escape_debug());
        return Some(Problem::new(StatusCode::FORBIDDEN, "foreign_origin", detail));
    }
    let kind = text(header::CONTENT_TYPE).and_then(|value| value.split(';').next());
    let json = kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    (!json).then(|| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Problem::new(status, "not_json", "a command carries JSON")
            .with_hint("send the header Content-Type: application/json; {} will do as the body")
    })
}
