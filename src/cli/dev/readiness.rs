//! Whether the cluster serves.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::http;

/// How long a leader may take to say whether it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What the leader says is missing; nothing if every partition serves.
pub(super) async fn missing(admin: SocketAddr) -> Option<String> {
    match http::get(&admin.to_string(), "/readyz?verbose", ANSWER_WITHIN).await {
        Ok(answer) if answer.is_success() => None,
        Ok(answer) => Some(format!("the leader is not ready: {}", answer.body.trim())),
        Err(error) => Some(format!("{:#}", anyhow::Error::from(error))),
    }
}
