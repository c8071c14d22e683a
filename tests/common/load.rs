//! A client that writes and reads all the time, and checks every reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::{Cluster, LineClient, eventually};

/// Keys that are written again and again.
const KEYS: usize = 500;
/// It ends by itself after this many writes.
const MOST_WRITES: usize = 2_000_000;

/// A load on a cluster. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Load {
    writes: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: Option<JoinHandle<Writer>>,
}

/// The one writer of its keys: what each holds is known.
#[derive(Debug)]
struct Writer {
    address: SocketAddr,
    client: LineClient,
    /// The number that was last stored under each key.
    stored: Vec<usize>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let (writes, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (address, client) = (cluster.client, cluster.connect());
        let mut hand = Writer { address, client, stored: Vec::new() };
        let (count, ends) = (Arc::clone(&writes), Arc::clone(&stop));
        let running = thread::spawn(move || {
            for number in 0..MOST_WRITES {
                if ends.load(Ordering::SeqCst) {
                    break;
                }
                hand.write(number);
                hand.check(number.wrapping_mul(7) % hand.stored.len());
                count.store(number + 1, Ordering::SeqCst);
            }
            hand
        });
        Self { writes, stop, running: Some(running) }
    }

    /// Waits until so many more writes were acknowledged and read back.
    pub(crate) fn await_writes(&self, more: usize) {
        let before = self.writes.load(Ordering::SeqCst);
        eventually("writes of the load", || {
            let writes = self.writes.load(Ordering::SeqCst);
            let failed = self.running.as_ref().is_none_or(JoinHandle::is_finished);
            assert!(!failed, "the load has failed");
            if writes >= before + more { Ok(()) } else { Err(writes) }
        });
    }

    /// Ends it, and checks every key.
    pub(crate) fn finish(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let mut writer = self.running.take().unwrap().join().expect("the load has failed");
        (0..writer.stored.len()).for_each(|key| writer.check(key));
        println!("{} writes of the load", self.writes.load(Ordering::SeqCst));
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

impl Writer {
    fn write(&mut self, number: usize) {
        let key = number % KEYS;
        let reply = self.ask(&format!("SET load-{key} {number}"));
        assert!(reply.starts_with("OK"), "SET load-{key}: {reply}");
        if key == self.stored.len() {
            self.stored.push(number);
        }
        self.stored[key] = number;
    }

    fn check(&mut self, key: usize) {
        let reply = self.ask(&format!("GET load-{key}"));
        assert_eq!(reply, format!("OK {}", self.stored[key]), "load-{key}");
    }

    /// Asks until there is an answer. Nobody else writes these keys, so a write whose outcome is not
    /// known may be repeated.
    fn ask(&mut self, line: &str) -> String {
        eventually(&format!("an answer to `{line}`"), || {
            let reply = self.client.try_ask(line);
            let for_now = ["ERROR UNAVAILABLE", "ERROR UNCERTAIN", "ERROR NOT_ENOUGH_NODES"];
            match reply {
                Ok(reply) if for_now.iter().any(|code| reply.starts_with(code)) => Err(reply),
                Ok(reply) => Ok(reply),
                Err(error) => {
                    if let Ok(client) = LineClient::connect(self.address) {
                        self.client = client;
                    }
                    Err(error.to_string())
                }
            }
        })
    }
}
