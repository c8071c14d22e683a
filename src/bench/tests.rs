//! The driver against servers that lie: each lie must be found out.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// Long enough for a busy machine.
const DEADLINE: Duration = Duration::from_mins(1);
/// Requests after which a server has shown what it is.
const ENOUGH: usize = 2_000;

fn load(mix: Mix) -> Load {
    Load { clients: 2, pipeline: 3, value_bytes: 20, mix, reply_within: DEADLINE }
}

/// What a fake server does with a request: the bytes of its reply.
type Answer = fn(&mut Store, &str) -> Vec<u8>;

/// A store of one connection, honest by itself.
#[derive(Default)]
struct Store {
    values: std::collections::HashMap<String, String>,
    asked: usize,
}

impl Store {
    fn honest(&mut self, line: &str) -> Vec<u8> {
        self.asked += 1;
        let mut words = line.splitn(3, ' ');
        let (word, key) = (words.next().unwrap(), words.next().unwrap_or_default().to_owned());
        match word {
            "SET" => {
                self.values.insert(key, words.next().unwrap().to_owned());
                b"OK\n".to_vec()
            }
            "GET" => match self.values.get(&key) {
                Some(value) => format!("OK {value}\n").into_bytes(),
                None => b"ERROR NOT_FOUND there is no such key\n".to_vec(),
            },
            _ => b"OK\n".to_vec(),
        }
    }
}

/// How many requests all connections of a server have brought so far.
type Asked = Arc<AtomicUsize>;

/// A server of the line protocol; closes after `QUIT`, or when there is nothing to answer with.
async fn serve(stream: TcpStream, answer: Answer, asked: Asked) {
    stream.set_nodelay(true).unwrap();
    let (reading, mut writing) = stream.into_split();
    let mut lines = BufReader::new(reading).lines();
    let mut store = Store::default();
    while let Ok(Some(line)) = lines.next_line().await {
        asked.fetch_add(1, Ordering::Relaxed);
        let reply = answer(&mut store, &line);
        if reply.is_empty() || writing.write_all(&reply).await.is_err() || line == "QUIT" {
            return;
        }
    }
}

async fn start(answer: Answer, asked: &Asked) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::clone(asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer, Arc::clone(&asked)));
        }
    });
    Target { protocol: Protocol::Line, address }
}

/// Drives a server until it has answered enough, and then to the end.
fn drive(load: Load, answer: Answer) -> Result<Measurement, BenchError> {
    block_on(async {
        let asked = Asked::default();
        let mut driver = Driver::start(load, start(answer, &asked).await, true)?;
        driver.ready().await?;
        driver.begin();
        let before = asked.load(Ordering::Relaxed);
        while asked.load(Ordering::Relaxed) < before + ENOUGH {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        driver.finish().await
    })
}

/// Drives a server until it is found out.
fn expose(load: Load, answer: Answer) -> BenchError {
    block_on(async {
        let target = start(answer, &Asked::default()).await;
        let mut driver = Driver::start(load, target, false).unwrap();
        match driver.ready().await {
            Ok(()) => driver.failed().await,
            Err(error) => error,
        }
    })
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let limited = async { tokio::time::timeout(DEADLINE, future).await };
    runtime.block_on(limited).expect("neither measured nor found out")
}

#[test]
fn an_honest_server_is_measured() {
    for mix in [Mix::SET, Mix::GET, Mix::MOSTLY_GET] {
        let figures = drive(load(mix), Store::honest).unwrap();
        assert!(figures.answered > 0);
        assert_eq!((figures.refused, figures.degraded), (0, 0));
        assert!(figures.samples.len() as u64 + 6 >= figures.answered, "all but those in flight");
        assert_eq!(figures.samples.len() as u64, figures.latencies.len());
        assert!(figures.quantile(0.5) <= figures.longest());
    }
}

#[test]
fn a_stale_value_is_found_out() {
    let stale: Answer = |store, line| {
        // The second write of a key is acknowledged, and forgotten.
        let key = line.split(' ').nth(1).unwrap_or_default();
        if line.starts_with("SET") && store.values.contains_key(key) {
            return b"OK\n".to_vec();
        }
        store.honest(line)
    };
    let error = expose(load(Mix::MOSTLY_GET), stale);
    assert!(matches!(error, BenchError::Wrong { .. }), "{error}");
}

#[test]
fn a_lost_key_is_found_out() {
    let forgetful: Answer = |store, line| {
        let reply = store.honest(line);
        if store.asked > 5_010 {
            store.values.clear();
        }
        reply
    };
    let error = expose(load(Mix::GET), forgetful);
    assert!(matches!(error, BenchError::Lost { .. }), "{error}");
}

#[test]
fn a_reply_twice_is_found_out() {
    let stutter: Answer = |store, line| {
        let reply = store.honest(line);
        if store.asked == 300 { [reply.clone(), reply].concat() } else { reply }
    };
    let error = expose(load(Mix::SET), stutter);
    assert!(matches!(error, BenchError::Extra { .. }), "{error}");
}

#[test]
fn a_reply_after_the_last_is_found_out() {
    let talkative: Answer = |store, line| match line {
        "QUIT" => b"OK\nOK\n".to_vec(),
        _ => store.honest(line),
    };
    let error = drive(load(Mix::SET), talkative).map(|_| ()).unwrap_err();
    assert!(matches!(error, BenchError::Extra { .. }), "{error}");
}

#[test]
fn a_missing_reply_is_found_out() {
    let silent: Answer = |store, line| {
        let reply = store.honest(line);
        // Half a reply, and then nothing: the connection stays open.
        match store.asked {
            0..300 => reply,
            300 => b"O".to_vec(),
            _ => b"K".to_vec(),
        }
    };
    let impatient = Load { reply_within: Duration::from_millis(300), ..load(Mix::SET) };
    let error = expose(impatient, silent);
    assert!(matches!(error, BenchError::Missing { missing: 1..=3, .. }), "{error}");
}

#[test]
fn a_connection_that_ends_is_reported() {
    let gone: Answer = |store, line| {
        let reply = store.honest(line);
        if store.asked == 300 { Vec::new() } else { reply }
    };
    let error = expose(load(Mix::SET), gone);
    assert!(matches!(error, BenchError::Disconnected { .. }), "{error}");
}

#[test]
fn a_reply_that_means_nothing_is_found_out() {
    let babbling: Answer = |store, line| {
        let reply = store.honest(line);
        if store.asked == 300 { b"OK indeed\n".to_vec() } else { reply }
    };
    let error = expose(load(Mix::SET), babbling);
    assert!(matches!(error, BenchError::Malformed { request: "SET", .. }), "{error}");
}

#[test]
fn refusals_and_degraded_writes_are_counted() {
    let weak: Answer = |store, line| {
        let reply = store.honest(line);
        match store.asked % 4 {
            0 if line.starts_with("SET") => b"OK DEGRADED 2/3\n".to_vec(),
            1 => b"ERROR UNCERTAIN it may still take effect\n".to_vec(),
            _ => reply,
        }
    };
    let figures = drive(load(Mix::MOSTLY_GET), weak).unwrap();
    assert!(figures.degraded > 0 && figures.refused > 0 && figures.answered > 0);
    assert_eq!(figures.refusal.as_deref(), Some("UNCERTAIN it may still take effect"));
}

#[test]
fn nobody_there_is_an_error() {
    let error = block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let target = Target { protocol: Protocol::Line, address };
        Driver::start(load(Mix::SET), target, false).unwrap().ready().await.unwrap_err()
    });
    assert!(matches!(error, BenchError::Connect { .. }), "{error}");
}
