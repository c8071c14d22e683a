//! The admin port, asked over real sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::runtime::metrics::ClientMetrics;

const PATIENCE: Duration = Duration::from_secs(30);

async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
    exchange(address, &request).await
}

async fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await.map(|_| response)
    };
    let response = tokio::time::timeout(PATIENCE, exchange).await.unwrap().unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn options(health: impl Health, registry: Registry) -> Options {
    let address = ([127, 0, 0, 1], 0).into();
    Options { address, health: Arc::new(health), registry: Arc::new(registry) }
}

#[tokio::test]
async fn a_probe_is_200_or_503_with_the_reasons() {
    let ready = Arc::new(AtomicBool::new(false));
    let health = {
        let ready = Arc::clone(&ready);
        move |probe| match probe {
            Probe::Live => Vec::new(),
            _ if ready.load(Ordering::SeqCst) => vec![Check::passed("partitions")],
            _ => vec![Check::passed("disk"), Check::failed("partitions", "3 are unavailable")],
        }
    };
    let admin = Admin::bind(options(health, metrics::registry())).await.unwrap();
    let (address, tasks) = (admin.address(), Tasks::new());
    admin.start(&tasks);

    assert_eq!(ask(address, "/livez").await, (200, r#"{"status":"ok"}"#.into()));
    let reason = r#"{"check":"partitions","reason":"3 are unavailable"}"#;
    let refused = format!(r#"{{"status":"unavailable","reasons":[{reason}]}}"#);
    assert_eq!(ask(address, "/readyz").await, (503, refused.clone()));
    assert_eq!(ask(address, "/healthz").await, (503, refused));
    ready.store(true, Ordering::SeqCst);
    let verbose = r#"{"status":"ok","checks":[{"check":"partitions"}]}"#;
    assert_eq!(ask(address, "/readyz?verbose").await, (200, verbose.into()));
    assert_eq!(ask(address, "/nothing").await.0, 404);
    assert!(tasks.finish(PATIENCE).await, "it ends when told to");
}

#[tokio::test]
async fn metrics_are_those_of_the_registry_and_further_routes_are_served() {
    let (clients, mut registry) = (ClientMetrics::new(), metrics::registry());
    clients.register(&mut registry);
    clients.connections.set(3);
    let admin = Admin::bind(options(|_| Vec::new(), registry)).await.unwrap();
    let admin = admin.with_routes(Router::new().route("/more", get(|| async { "more" })));
    let (address, tasks) = (admin.address(), Tasks::new());
    admin.start(&tasks);
    let (status, text) = ask(address, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("hatokuse_connections 3\n"), "{text}");
    assert_eq!(ask(address, "/more").await, (200, "more".into()));
    tasks.stop();
}

async fn command(address: SocketAddr, headers: &str) -> (u16, String) {
    let request = format!(
        "POST /api/v1/echo HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}Content-Length: 2\r\n\r\n42"
    );
    exchange(address, &request).await
}

#[tokio::test]
async fn a_command_says_that_it_is_json_and_no_foreign_page_gives_one() {
    let routes = Router::new().route("/echo", post(async |Json(number): Json<u32>| Json(number)));
    let admin = Admin::bind(options(|_| Vec::new(), metrics::registry())).await.unwrap();
    let admin = admin.with_routes(api(routes));
    let (address, tasks) = (admin.address(), Tasks::new());
    admin.start(&tasks);

    let json = "Content-Type: application/json\r\n";
    assert_eq!(command(address, json).await, (200, "42".into()));
    let own = format!("{json}Origin: http://{address}\r\n");
    assert_eq!(command(address, &own).await.0, 200, "the console of this very port");
    let foreign = format!("{json}Origin: http://example.org\r\n");
    let (status, body) = command(address, &foreign).await;
    assert_eq!(status, 403);
    assert!(body.contains(r#""code":"foreign_origin""#), "{body}");
    let (status, body) = command(address, "Content-Type: text/plain\r\n").await;
    assert!(status == 415 && body.contains("Content-Type: application/json"), "{body}");
    assert_eq!(command(address, "").await.0, 415);

    let (status, body) = ask(address, "/api/v1/echo").await;
    assert!(status == 405 && body.contains("POST changes something"), "{body}");
    let (status, body) = ask(address, "/api/v1/nothing").await;
    let problem: Problem = serde_json::from_str(&body).unwrap();
    assert_eq!((status, problem.status, problem.code.as_str()), (404, 404, "not_found"));
    tasks.stop();
}
