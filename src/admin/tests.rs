//! The admin port, asked over real sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::runtime::metrics::ClientMetrics;

const PATIENCE: Duration = Duration::from_secs(30);

async fn ask(address: SocketAddr, path: &str) -> (u16, String) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
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
