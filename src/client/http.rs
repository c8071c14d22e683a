//! Just enough HTTP to talk to an admin port: one request, one connection.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// More than this is no answer of an admin port.
const MAX_RESPONSE_BYTES: u64 = 4 << 20;

/// Why an admin port gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Connecting, sending or receiving failed.
    #[error("cannot ask {address}")]
    Io {
        /// Whom we asked.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("no answer from {address} within {}", humantime::format_duration(*.within))]
    Timeout {
        /// Whom we asked.
        address: String,
        /// How long we waited.
        within: Duration,
    },
    /// The answer is not HTTP.
    #[error("{address} does not speak HTTP; is this the admin port?")]
    Malformed {
        /// Whom we asked.
        address: String,
    },
}

/// What an admin port answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, as text.
    pub body: String,
}

impl Response {
    /// Whether the code says that all is well.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Asks `http://{address}{path}`.
pub async fn get(address: &str, path: &str, within: Duration) -> Result<Response, HttpError> {
    send(address, &head("GET", address, path, ""), within).await
}

/// Commands `http://{address}{path}`, with this JSON.
pub async fn post(
    address: &str,
    path: &str,
    json: &str,
    within: Duration,
) -> Result<Response, HttpError> {
    let about = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    send(address, &(head("POST", address, path, &about) + json), within).await
}

/// HTTP/1.0 keeps the body of the answer free of chunks, and the connection ends with it.
fn head(method: &str, address: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n")
}

async fn send(address: &str, request: &str, within: Duration) -> Result<Response, HttpError> {
    let response = timeout(within, exchange(address, request))
        .await
        .map_err(|_| HttpError::Timeout { address: address.to_owned(), within })?
        .map_err(|source| HttpError::Io { address: address.to_owned(), source })?;
    parse(&response).ok_or_else(|| HttpError::Malformed { address: address.to_owned() })
}

async fn exchange(address: &str, request: &str) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE_BYTES).read_to_end(&mut response).await?;
    Ok(response)
}

fn parse(response: &[u8]) -> Option<Response> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut words = head.strip_prefix("HTTP/1.")?.split_ascii_whitespace();
    let status = words.nth(1)?.parse().ok()?;
    Some(Response { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_read_and_anything_else_is_refused() {
        let ok = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        assert_eq!(ok, Response { status: 200, body: "ok".to_owned() });
        assert!(ok.is_success());
        let bad = parse(b"HTTP/1.0 503 Service Unavailable\r\n\r\n{}").unwrap();
        assert!(!bad.is_success());
        assert_eq!(parse(b"ERROR UNKNOWN_COMMAND GET\n"), None);
        assert_eq!(parse(b"HTTP/1.1 none\r\n\r\n"), None);
    }
}
