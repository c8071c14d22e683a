//! A network between processes that can be made as bad as networks are.
//!
//! A [`Proxy`] passes connections on to a process. Each of its two directions has a [`Weather`] of
//! its own, and connections of one process - the leader - may have other weather than the rest. What is sent into silence is kept and arrives when the silence is over, as it does where
//! TCP sends again what was lost; so what was said before a cut is heard after it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, sleep_until};

/// A chunk that travels by itself.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks on their way; more wait at the sender.
const CHUNKS: usize = 256;
/// A slow drip is one byte and a pause.
const DRIP_PAUSE: Duration = Duration::from_millis(1);

/// How it goes with what is sent in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// It arrives.
    Fair,
    /// It does not arrive until the weather changes.
    Silent,
    /// It arrives so much later.
    Late(Duration),
    /// It arrives so many bytes each millisecond.
    Drip(usize),
}

/// Passes connections on to one address.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    /// Its connections end with it.
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    /// Where connections go; nowhere yet, if this is nothing.
    target: Mutex<Option<SocketAddr>>,
    /// The process whose connections are the leader's.
    leader: Mutex<Option<u32>>,
    leaders: Way,
    others: Way,
    /// Goes up with each cut: connections of earlier numbers end. Odd: new ones are refused.
    cuts: watch::Sender<u64>,
}

/// The weather of some connections.
#[derive(Debug)]
struct Way {
    /// Towards the target.
    there: watch::Sender<Weather>,
    /// From the target.
    back: watch::Sender<Weather>,
}

impl Way {
    fn new() -> Self {
        Self { there: watch::Sender::new(Weather::Fair), back: watch::Sender::new(Weather::Fair) }
    }

    fn set(&self, there: Weather, back: Weather) {
        self.there.send_replace(there);
        self.back.send_replace(back);
    }
}

impl Proxy {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::default(),
            leader: Mutex::default(),
            leaders: Way::new(),
            others: Way::new(),
            cuts: watch::Sender::new(0),
        });
        let serving = Arc::clone(&shared);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&serving).serve(stream));
            }
        });
        Self { address, shared, _runtime: runtime }
    }

    /// Where connections go from now on.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.shared.target.lock() = Some(target);
    }

    /// Which process the leader is.
    pub(crate) fn know_leader(&self, pid: u32) {
        *self.shared.leader.lock() = Some(pid);
    }

    /// The weather towards the target and from it.
    pub(crate) fn set(&self, there: Weather, back: Weather) {
        self.shared.leaders.set(there, back);
        self.shared.others.set(there, back);
    }

    /// The weather for all but the leader.
    pub(crate) fn set_for_others(&self, there: Weather, back: Weather) {
        self.shared.others.set(there, back);
    }

    /// Breaks all connections; new ones are taken.
    pub(crate) fn break_connections(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 2);
    }

    /// Breaks all connections and refuses new ones, or takes them again.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.cuts.send_modify(|cuts| *cuts = (*cuts | 1) + u64::from(!refuse));
    }
}

impl Shared {
    /// One connection, until one side ends it or it is cut.
    async fn serve(self: Arc<Self>, near: TcpStream) {
        let mut cuts = self.cuts.subscribe();
        let cut = *cuts.borrow_and_update();
        let Some(target) = *self.target.lock() else { return };
        if cut % 2 == 1 {
            return;
        }
        let Ok(far) = TcpStream::connect(target).await else { return };
        let leader = *self.leader.lock();
        let from_leader = match (leader, near.peer_addr(), near.local_addr()) {
            // The table is read while it changes: a row may be passed over.
            (Some(pid), Ok(from), Ok(to)) => (0..3).any(|_| connects(pid, from, to)),
            _ => false,
        };
        let way = if from_leader { &self.leaders } else { &self.others };
        let both = [&near, &far].map(|stream| stream.set_nodelay(true).is_ok());
        let ((from_near, to_near), (from_far, to_far)) = (near.into_split(), far.into_split());
        let there = pass(from_near, to_far, way.there.subscribe());
        let back = pass(from_far, to_near, way.back.subscribe());
        if both == [true, true] {
            tokio::select! {
                _ = async { tokio::join!(there, back) } => {}
                _ = cuts.wait_for(|now| *now > cut) => {}
            }
        }
    }
}

/// Whether this connection was made by this process.
fn connects(pid: u32, from: SocketAddr, to: SocketAddr) -> bool {
    let hexadecimal = |address: SocketAddr| match address {
        SocketAddr::V4(address) => {
            let ip = u32::from_ne_bytes(address.ip().octets());
            format!("{ip:08X}:{:04X}", address.port())
        }
        SocketAddr::V6(address) => format!("{address}"),
    };
    let ends = [hexadecimal(from), hexadecimal(to)];
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let mut rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
    let Some(row) = rows.find(|row| row.len() > 9 && row[1..3] == ends) else { return false };
    let name = format!("socket:[{}]", row[9]);
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut names = files.filter_map(|file| fs::read_link(file.path()).ok());
    names.any(|file| file == Path::new(&name))
}

/// One direction of one connection, until its sender ends it.
async fn pass(
    mut from: OwnedReadHalf,
    to: OwnedWriteHalf,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let (sender, chunks) = mpsc::channel(CHUNKS);
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let length = from.read(&mut buffer).await?;
            let chunk = Chunk { sent: now(), bytes: buffer[..length].to_vec() };
            if length == 0 || sender.send(chunk).await.is_err() {
                return Ok(());
            }
        }
    };
    tokio::try_join!(read, deliver(chunks, to, weather)).map(drop)
}

#[derive(Debug)]
struct Chunk {
    sent: tokio::time::Instant,
    bytes: Vec<u8>,
}

#[allow(clippy::disallowed_methods, reason = "the delay of a network is one of real time")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

async fn deliver(
    mut chunks: mpsc::Receiver<Chunk>,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    while let Some(chunk) = chunks.recv().await {
        let mut rest = chunk.bytes.as_slice();
        while !rest.is_empty() {
            let today = *weather.borrow_and_update();
            let length = match today {
                Weather::Fair => rest.len(),
                Weather::Silent => 0,
                Weather::Late(late) => {
                    sleep_until(chunk.sent + late).await;
                    rest.len()
                }
                Weather::Drip(bytes) => {
                    sleep(DRIP_PAUSE).await;
                    bytes.min(rest.len())
                }
            };
            if today == Weather::Silent && weather.changed().await.is_err() {
                return Ok(());
            }
            to.write_all(&rest[..length]).await?;
            rest = &rest[length..];
        }
    }
    // The end of a connection is no more heard than what was said in it.
    let _ = weather.wait_for(|weather| *weather != Weather::Silent).await;
    to.shutdown().await
}
