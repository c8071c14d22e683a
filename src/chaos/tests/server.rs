//! A store in memory behind the line protocol, honest or not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// In which way a server is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// In none.
    None,
    /// Some writes are acknowledged and forgotten.
    Forgets,
    /// Some deletes are acknowledged and forgotten.
    Keeps,
    /// Some writes are refused and stored.
    RefusesAndStores,
    /// Some reads are of what was there before.
    ReadsOld,
    /// Answers are no answers.
    Babbles,
    /// Some connections break after the request, whether or not it takes effect.
    Breaks,
    /// After so many requests all is gone.
    LosesAll(u64),
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) store: Arc<Mutex<Store>>,
    _stop: DropGuard,
}

#[derive(Debug)]
pub(super) struct Store {
    lie: Lie,
    requests: u64,
    pub(super) held: HashMap<String, String>,
    before: HashMap<String, String>,
}

impl Server {
    pub(super) async fn start(lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store { lie, requests: 0, held: HashMap::new(), before: HashMap::new() };
        let store = Arc::new(Mutex::new(store));
        let stop = CancellationToken::new();
        let (shared, stopped) = (Arc::clone(&store), stop.clone());
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (store, stopped) = (Arc::clone(&shared), stopped.clone());
                tokio::spawn(stopped.run_until_cancelled_owned(serve(stream, store)));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self { address, store, _stop: stop.drop_guard() }
    }
}

async fn serve(mut stream: TcpStream, store: Arc<Mutex<Store>>) {
    let (reading, mut writing) = stream.split();
    let mut lines = BufReader::new(reading).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // Requests of other connections come between.
        tokio::task::yield_now().await;
        let Some(reply) = store.lock().answer(&line) else { return };
        tokio::task::yield_now().await;
        if writing.write_all(format!("{reply}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Store {
    fn answer(&mut self, line: &str) -> Option<String> {
        self.requests += 1;
        let turn = self.requests.is_multiple_of(97);
        let mut words = line.splitn(3, ' ');
        let (verb, key) = (words.next().unwrap(), words.next().unwrap().to_owned());
        let value = words.next().map(str::to_owned);
        if self.lie == Lie::LosesAll(self.requests) {
            self.held.clear();
        }
        let ok = "OK".to_owned();
        Some(match (verb, self.lie) {
            ("GET", Lie::Babbles) if turn => "VALUE 7".to_owned(),
            (_, Lie::Breaks) if turn => {
                if self.requests.is_multiple_of(2) {
                    self.change(verb, key, value);
                }
                return None;
            }
            ("GET", Lie::ReadsOld) if turn => {
                self.before.get(&key).map_or_else(not_found, |old| format!("OK {old}"))
            }
            ("GET", _) => self.held.get(&key).map_or_else(not_found, |value| format!("OK {value}")),
            ("UPD", _) if !self.held.contains_key(&key) => not_found(),
            ("SET" | "UPD", Lie::Forgets) | ("DEL", Lie::Keeps) if turn => ok,
            ("SET", Lie::RefusesAndStores) if turn => {
                self.change(verb, key, value);
                "ERROR NOT_ENOUGH_NODES 1/2".to_owned()
            }
            _ => {
                self.change(verb, key, value);
                ok
            }
        })
    }

    fn change(&mut self, verb: &str, key: String, value: Option<String>) {
        let old = match (verb, value) {
            ("SET", Some(value)) => self.held.insert(key.clone(), value),
            ("UPD", Some(value)) if self.held.contains_key(&key) => {
                self.held.insert(key.clone(), value)
            }
            ("DEL", _) => self.held.remove(&key),
            _ => None,
        };
        self.before.extend(old.map(|old| (key, old)));
    }
}

fn not_found() -> String {
    "ERROR NOT_FOUND there is no such key".to_owned()
}
