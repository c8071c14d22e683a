//! Clients: each speaks the line protocol over a connection of the simulated network, waits for its
//! answer, and writes down what it was told and when.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use turmoil::net::TcpStream;

use super::hosts::{CLIENT_PORT, LEADER, REQUEST_TIMEOUT};
use crate::logic::history::{Kind, Operation, Outcome};
use crate::runtime::clock;
use crate::simulation::random::Random;
use crate::types::Key;

/// An answer may be this much later than a request may take: the time of the network, and of the
/// leader's ticks.
const MARGIN: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(2);
/// A client that was turned away, or found nobody, waits so long.
const PAUSE: Duration = Duration::from_millis(50);
/// One value in so many travels apart from the others, because it is large.
const LARGE_ONE_IN: u64 = 40;
const LARGE_BYTES: usize = 70 << 10;

/// What all clients saw, and what they were told to do.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) history: Vec<Operation>,
    /// What no client should have seen, besides what the history shows.
    pub(super) violation: Option<String>,
    /// No client asks any more.
    pub(super) quiet: bool,
    /// How many keys were read at the end.
    pub(super) read: usize,
}

pub(super) type SharedLog = Rc<RefCell<Log>>;

fn violate(log: &SharedLog, violation: String) {
    log.borrow_mut().violation.get_or_insert(violation);
}

/// Connects to the leader.
pub(super) async fn connect() -> Option<TcpStream> {
    timeout(CONNECT, TcpStream::connect((LEADER, CLIENT_PORT))).await.ok()?.ok()
}

/// A client that asks about some keys until it is quiet.
pub(super) async fn ask_on(
    client: u32,
    keys: Vec<Key>,
    think: u64,
    mut random: Random,
    log: SharedLog,
) -> turmoil::Result {
    let mut connection = None;
    let mut written = 0;
    while !log.borrow().quiet {
        sleep(Duration::from_millis(random.around(think))).await;
        if connection.is_none() {
            connection = connect().await;
        }
        let Some(stream) = connection.as_mut() else {
            sleep(PAUSE).await;
            continue;
        };
        written += 1;
        let kind = choose(client, written, &mut random);
        let (outcome, open) = ask(stream, client, random.pick(&keys), kind, &log).await;
        if !open {
            connection = None;
        }
        if outcome == Outcome::Failed {
            sleep(PAUSE).await;
        }
    }
    Ok(())
}

fn choose(client: u32, written: u64, random: &mut Random) -> Kind {
    let mut value = format!("{client}.{written}");
    if random.below(LARGE_ONE_IN) == 0 {
        value.push_str(&".".repeat(LARGE_BYTES));
    }
    match random.below(100) {
        0..45 => Kind::Get,
        45..78 => Kind::Set(value.into()),
        78..88 => Kind::Update(value.into()),
        _ => Kind::Delete,
    }
}

/// A client that reads every key, each until it is answered.
pub(super) async fn read_all(client: u32, keys: Vec<Key>, log: SharedLog) -> turmoil::Result {
    let mut connection = None;
    for key in &keys {
        loop {
            if connection.is_none() {
                connection = connect().await;
            }
            let outcome = match connection.as_mut() {
                None => Outcome::Failed,
                Some(stream) => {
                    let (outcome, open) = ask(stream, client, key, Kind::Get, &log).await;
                    if !open {
                        connection = None;
                    }
                    outcome
                }
            };
            if outcome != Outcome::Failed {
                break;
            }
            sleep(PAUSE).await;
        }
        log.borrow_mut().read += 1;
    }
    Ok(())
}

/// Asks one thing and waits for the answer. Says what came of it, and whether the connection can
/// still be used.
async fn ask(
    stream: &mut TcpStream,
    client: u32,
    key: &Key,
    kind: Kind,
    log: &SharedLog,
) -> (Outcome, bool) {
    let line = line(key, &kind);
    let place = log.borrow().history.len();
    log.borrow_mut().history.push(Operation {
        client,
        key: key.clone(),
        kind: kind.clone(),
        invoked: clock::now(),
        returned: None,
        outcome: Outcome::Pending,
    });
    let within = REQUEST_TIMEOUT + MARGIN;
    let reply = timeout(within, exchange(stream, &line)).await;
    let lost = if kind == Kind::Get { Outcome::Failed } else { Outcome::Uncertain };
    let (outcome, open) = match reply {
        Ok(Some(reply)) => {
            if let Some(outcome) = understand(&kind, &reply) {
                (outcome, true)
            } else {
                violate(log, format!("{key}: {kind:?} was answered {reply:?}"));
                (lost, false)
            }
        }
        Ok(None) => (lost, false),
        Err(_) => {
            violate(log, format!("{key}: {kind:?} had no answer within {within:?}"));
            (lost, false)
        }
    };
    let operation = &mut log.borrow_mut().history[place];
    operation.returned = Some(clock::now());
    operation.outcome = outcome.clone();
    (outcome, open)
}

fn line(key: &Key, kind: &Kind) -> Bytes {
    let (word, value) = match kind {
        Kind::Get => ("GET", None),
        Kind::Set(value) => ("SET", Some(value)),
        Kind::Update(value) => ("UPD", Some(value)),
        Kind::Delete => ("DEL", None),
    };
    let mut line = BytesMut::from(word);
    for part in [Some(&key.0), value].into_iter().flatten() {
        line.extend_from_slice(b" ");
        line.extend_from_slice(part);
    }
    line.extend_from_slice(b"\n");
    line.freeze()
}

/// The line that answers a line; nothing if the connection broke.
pub(super) async fn exchange(stream: &mut TcpStream, line: &[u8]) -> Option<Bytes> {
    stream.write_all(line).await.ok()?;
    let mut reply = BytesMut::new();
    while !reply.ends_with(b"\n") {
        if stream.read_buf(&mut reply).await.ok()? == 0 {
            return None;
        }
    }
    reply.truncate(reply.len() - 1);
    Some(reply.freeze())
}

fn understand(kind: &Kind, reply: &Bytes) -> Option<Outcome> {
    let version = None;
    if *kind == Kind::Get
        && let Some(value) = reply.strip_prefix(b"OK ")
    {
        return Some(Outcome::Value { version, value: reply.slice_ref(value) });
    }
    let text = std::str::from_utf8(reply).ok()?;
    let mut words = text.split(' ');
    match (words.next()?, words.next()) {
        ("OK", None | Some("DEGRADED")) if *kind != Kind::Get => Some(Outcome::Stored { version }),
        ("ERROR", Some("NOT_FOUND")) => Some(Outcome::NotFound { version }),
        ("ERROR", Some("UNCERTAIN")) if *kind != Kind::Get => Some(Outcome::Uncertain),
        ("ERROR", Some("UNAVAILABLE" | "NOT_ENOUGH_NODES" | "BUSY")) => Some(Outcome::Failed),
        _ => None,
    }
}
