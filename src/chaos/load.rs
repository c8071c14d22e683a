//! A load from its start to what was recorded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::client::{Answer, Asker};
use super::file::HistoryWriter;
use super::group::{Group, KeyLog, Task, Ticket};
use super::keeper::{Kept, keep};
use super::meter::{Counts, Gap, Meter, Stalls};
use super::options::{CLIENTS_PER_KEY, Options};
use super::random::Random;
use super::verdict::{Finding, Verdict, judge};
use crate::logic::history::{Kind, Operation, Outcome};
use crate::runtime::clock;

/// A client that was refused, or could not connect, waits so long.
const PAUSE: Duration = Duration::from_millis(50);
/// A client that has to wait for others looks so often.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Closed keys on their way to whoever keeps them.
const CLOSED_KEYS: usize = 64;
/// How many answers without sense are remembered.
const MAX_COMPLAINTS: usize = 20;
/// How long all keys may take to be deleted at the end.
const DELETE_WITHIN: Duration = Duration::from_mins(1);

/// A running load. Dropped without [`Load::stop`], its clients end and nothing is judged.
#[derive(Debug)]
pub struct Load {
    options: Options,
    shared: Arc<Shared>,
    clients: TaskTracker,
    keeper: JoinHandle<Kept>,
    /// Where keys go that are closed.
    closed: mpsc::Sender<KeyLog>,
    /// Tells the clients to ask no more.
    quiet: CancellationToken,
    /// Tells the clients to go, whatever they are doing, when it is dropped.
    leave: DropGuard,
}

/// What a load has recorded.
#[derive(Debug)]
pub struct Recorded {
    /// What is held of the history: all of it, up to [`Options::held_operations`]. Beyond, retired
    /// keys in which nothing was wrong are let go; of these there is only how they ended (their
    /// last writes, as sets, and reads).
    pub history: Vec<Operation>,
    /// For how long nothing was answered.
    pub stalls: Stalls,
    /// How many operations came to which end.
    pub counts: Counts,
    /// Why the file of [`Options::history`] is not complete, if it is not.
    pub file_error: Option<io::Error>,
    /// How many keys could not be deleted, if they were to be.
    pub undeleted: usize,
    findings: Vec<Finding>,
    keys: u64,
    unread: usize,
    complaints: Vec<String>,
}

impl Recorded {
    /// Judges it. For long histories this takes some seconds of one processor.
    pub fn judge(&self) -> Verdict {
        let mut verdict = judge(&self.history);
        verdict.operations = self.counts.operations;
        verdict.keys = self.keys;
        verdict.findings.extend(self.findings.iter().cloned());
        verdict.unread = self.unread;
        verdict.complaints.clone_from(&self.complaints);
        verdict
    }
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    meter: Mutex<Meter>,
    complaints: Mutex<Vec<String>>,
    groups: Vec<Arc<Mutex<Group>>>,
}

impl Load {
    /// Starts the clients. They run on the runtime that this is called on, until
    /// [`Options::duration`] is over or they are stopped.
    ///
    /// # Errors
    /// If the file of the history cannot be made.
    ///
    /// # Panics
    /// If there is no runtime.
    pub fn start(options: Options) -> io::Result<Self> {
        let file = options.history.as_deref().map(HistoryWriter::create).transpose()?;
        let (closed, logs) = mpsc::channel(CLOSED_KEYS);
        let limit = options.held_operations;
        let keeper = tokio::task::spawn_blocking(move || keep(logs, file, limit));
        let group = |number: usize| {
            let prefix = format!("{}{number}.", options.prefix);
            let keys = options.keys_of_a_group();
            let limit = options.operations_per_key;
            Arc::new(Mutex::new(Group::new(prefix, keys, limit, options.value_bytes)))
        };
        let clients = options.clients.max(1);
        let leave = CancellationToken::new();
        let shared = Arc::new(Shared {
            meter: Mutex::new(Meter::new(clients, clock::now())),
            complaints: Mutex::default(),
            groups: (0..options.groups()).map(group).collect(),
        });
        let load = Self {
            shared,
            clients: TaskTracker::new(),
            keeper,
            closed,
            quiet: CancellationToken::new(),
            leave: leave.clone().drop_guard(),
            options,
        };
        let places = load.shared.groups.iter().flat_map(|group| [group; CLIENTS_PER_KEY]);
        for (number, group) in places.take(clients).enumerate() {
            load.start_client(number, group, leave.clone());
        }
        if let Some(duration) = load.options.duration {
            load.start_timer(duration);
        }
        Ok(load)
    }

    fn start_client(&self, number: usize, group: &Arc<Mutex<Group>>, leave: CancellationToken) {
        let options = &self.options;
        let seed = Random::new(options.seed.wrapping_add(number as u64)).number();
        let mut hand = Hand {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            group: Arc::clone(group),
            shared: Arc::clone(&self.shared),
            asker: Asker::new(options.addresses.clone(), number, options.reply_within),
            random: Random::new(seed),
            pace: options.pace,
            closed: self.closed.clone(),
        };
        let quiet = self.quiet.clone();
        self.clients.spawn(async move {
            let work = async {
                hand.run(&quiet).await;
                hand.settle().await;
            };
            tokio::select! {
                () = work => {}
                () = leave.cancelled() => {}
            }
        });
    }

    /// Tells the clients to ask no more once the time is over.
    fn start_timer(&self, duration: Duration) {
        let (quiet, shared) = (self.quiet.clone(), Arc::clone(&self.shared));
        tokio::spawn(async move {
            tokio::select! {
                () = sleep(duration) => {}
                () = quiet.cancelled() => {}
            }
            shared.meter.lock().end(clock::now());
            quiet.cancel();
        });
    }

    /// What was counted up to now.
    pub fn counts(&self) -> Counts {
        self.shared.meter.lock().counts().clone()
    }

    /// How it goes up to now.
    pub fn stalls(&self) -> Stalls {
        self.shared.meter.lock().stalls(clock::now())
    }

    /// What every key begins with.
    pub fn prefix(&self) -> &str {
        &self.options.prefix
    }

    /// Completes when [`Options::duration`] is over; never, if there is none.
    pub async fn finished(&self) {
        match self.options.duration {
            Some(_) => self.quiet.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the load: nothing new is asked, every key is read back, and deleted if that is wished.
    /// Takes as long as the last answers do, and [`Options::settle_within`] at most to read back.
    pub async fn stop(self) -> Recorded {
        let Self { options, shared, clients, keeper, closed, quiet, leave } = self;
        shared.meter.lock().end(clock::now());
        quiet.cancel();
        clients.close();
        let patience = options.settle_within + options.reply_within;
        let settled = timeout(patience, clients.wait()).await.is_ok();
        drop(leave);
        if !settled {
            clients.wait().await;
        }
        let mut unread = 0;
        for group in &shared.groups {
            let (logs, unclosed) = group.lock().abandon();
            unread += unclosed;
            for log in logs {
                let _ = closed.send(log).await;
            }
        }
        drop(closed);
        let kept = keeper.await.unwrap_or_default();
        let undeleted = if options.delete_keys { delete_keys(&options, &shared).await } else { 0 };
        let complaints = std::mem::take(&mut *shared.complaints.lock());
        let meter = shared.meter.lock();
        Recorded {
            history: kept.held,
            stalls: meter.stalls(clock::now()),
            counts: meter.counts().clone(),
            file_error: kept.error,
            undeleted,
            findings: kept.findings,
            keys: kept.keys,
            unread,
            complaints,
        }
    }
}

/// One client at work.
struct Hand {
    number: u32,
    group: Arc<Mutex<Group>>,
    shared: Arc<Shared>,
    asker: Asker,
    random: Random,
    pace: Duration,
    closed: mpsc::Sender<KeyLog>,
}

impl Hand {
    /// Asks one thing after the other.
    async fn run(&mut self, quiet: &CancellationToken) {
        while !quiet.is_cancelled() {
            let pause = self.pause();
            if !pause.is_zero() {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = quiet.cancelled() => return,
                }
            }
            if !self.connect().await {
                continue;
            }
            let task = self.group.lock().next(self.number, &mut self.random, clock::now());
            if let Task::Ask(ticket) = task {
                self.ask(ticket).await;
            }
        }
    }

    /// Reads everything back.
    async fn settle(&mut self) {
        loop {
            if !self.connect().await {
                continue;
            }
            let task = self.group.lock().settle(self.number, clock::now());
            match task {
                Task::Ask(ticket) => self.ask(ticket).await,
                Task::Wait => sleep(LOOK_EVERY).await,
                Task::Done => return,
            }
        }
    }

    /// A time around the one that was asked for.
    fn pause(&mut self) -> Duration {
        let micros = u64::try_from(self.pace.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.below(micros.saturating_mul(2)))
    }

    async fn connect(&mut self) -> bool {
        let connected = self.asker.connect().await;
        if !connected {
            self.shared.meter.lock().record_unconnected();
            sleep(PAUSE).await;
        }
        connected
    }

    async fn ask(&mut self, ticket: Ticket) {
        let begun = clock::now();
        let answer = self.asker.ask(&ticket.key, &ticket.kind).await;
        let now = clock::now();
        let refused = answer.outcome == Outcome::Failed;
        self.shared.note(self.number, &ticket.kind, Gap { from: begun, to: now }, &answer);
        let closed = self.group.lock().finish(&ticket, answer.outcome, now);
        if let Some(log) = closed {
            let _ = self.closed.send(log).await;
        }
        if refused {
            sleep(PAUSE).await;
        }
    }
}

impl Shared {
    /// An operation has come to its end.
    fn note(&self, client: u32, kind: &Kind, times: Gap, answer: &Answer) {
        let mut meter = self.meter.lock();
        meter.record(client, kind, times, &answer.outcome);
        if let Some(error) = &answer.error {
            meter.record_error(error);
        }
        if let Some(complaint) = &answer.complaint {
            let mut complaints = self.complaints.lock();
            if complaints.len() < MAX_COMPLAINTS {
                complaints.push(complaint.clone());
            }
        }
    }
}

/// Deletes every key there was. How many could not be deleted in time.
async fn delete_keys(options: &Options, shared: &Shared) -> usize {
    let groups = shared.groups.iter().enumerate().map(|(number, group)| {
        let keys = group.lock().keys();
        let mut asker = Asker::new(options.addresses.clone(), number, options.reply_within);
        async move {
            let mut left = keys.len();
            let delete = async {
                for key in &keys {
                    while !is_done(&asker.ask(key, &Kind::Delete).await) {
                        sleep(PAUSE).await;
                    }
                    left -= 1;
                }
            };
            let _ = timeout(DELETE_WITHIN, delete).await;
            left
        }
    });
    futures::future::join_all(groups).await.into_iter().sum()
}

fn is_done(answer: &Answer) -> bool {
    matches!(answer.outcome, Outcome::Stored { .. })
}
