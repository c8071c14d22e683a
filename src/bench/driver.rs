//! The driver's thread, and the handle that controls it.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Barrier, oneshot};
use tokio::task::{JoinSet, LocalSet};

use super::book::Book;
use super::client::{Client, Watch, Way};
use super::error::BenchError;
use super::load::{Load, Target};
use super::recorder::{Measurement, Recorder, Window};
use super::value::{Keyspace, Text};
use crate::runtime::clock;

type Outcome = Result<Measurement, BenchError>;

/// A load that runs on a thread of its own. Dropped, it stops by itself.
#[derive(Debug)]
pub struct Driver {
    window: Arc<Window>,
    ready: Option<oneshot::Receiver<()>>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Driver {
    /// Connects all clients and, if the load reads, stores all keys; then the load runs. Every
    /// operation's time is kept (16 bytes each) if `keeps_samples`.
    pub fn start(load: Load, target: Target, keeps_samples: bool) -> Result<Self, BenchError> {
        let window = Arc::new(Window::new());
        let (ready_sender, ready) = oneshot::channel();
        let (outcome_sender, outcome) = oneshot::channel();
        let shared = Arc::clone(&window);
        let drive = move || {
            let recorder = Recorder::new(keeps_samples);
            let _ = outcome_sender.send(drive(&load, target, &shared, recorder, ready_sender));
        };
        let thread = thread::Builder::new().name("load".into());
        thread.spawn(drive).map_err(BenchError::Driver)?;
        Ok(Self { window, ready: Some(ready), outcome })
    }

    /// Waits until all clients send what they are to send.
    pub async fn ready(&mut self) -> Result<(), BenchError> {
        if let Some(ready) = self.ready.take()
            && ready.await.is_err()
        {
            // It ended before: then it has a reason.
            return Err(self.failed().await);
        }
        Ok(())
    }

    /// From now on everything counts.
    pub fn begin(&self) {
        self.window.begin(clock::now());
    }

    /// Completes if the run has failed; else never.
    pub async fn failed(&mut self) -> BenchError {
        match (&mut self.outcome).await {
            Ok(Err(error)) => error,
            Ok(Ok(_)) => pending().await,
            Err(_) => gone(),
        }
    }

    /// From now on nothing counts. Waits for what is in flight, and returns the figures.
    pub async fn finish(mut self) -> Outcome {
        self.window.end(clock::now());
        (&mut self.outcome).await.unwrap_or_else(|_| Err(gone()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.window.stop();
    }
}

fn gone() -> BenchError {
    BenchError::Driver(io::Error::other("its thread has ended"))
}

fn drive(
    load: &Load,
    target: Target,
    window: &Arc<Window>,
    recorder: Recorder,
    ready: oneshot::Sender<()>,
) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let recorder = Rc::new(RefCell::new(recorder));
    let clients = run_clients(load, target, window, &recorder, ready);
    LocalSet::new().block_on(&runtime.map_err(BenchError::Driver)?, clients)?;
    Ok(Rc::into_inner(recorder).ok_or_else(gone)?.into_inner().finish(window))
}

async fn run_clients(
    load: &Load,
    target: Target,
    window: &Arc<Window>,
    recorder: &Rc<RefCell<Recorder>>,
    ready: oneshot::Sender<()>,
) -> Result<(), BenchError> {
    // Keys are never those of another run against the same cluster.
    let run = format!("{:x}", clock::wall_milliseconds());
    let text = Text::new(load.value_bytes);
    let way = Way::to(target, load.reply_within).await?;
    let all = Rc::new(Barrier::new(load.clients + 1));
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let keys = Keyspace::new(&run, number, text.clone());
        let book = Book::new(number, keys, load.slots());
        let watch = Watch::new(number, window, recorder);
        let (load, way, all) = (load.clone(), way.clone(), Rc::clone(&all));
        clients.spawn_local(async move {
            let mut client = Client::connect(load.clone(), &way, book, watch).await?;
            if load.mix.reads() {
                client.fill().await?;
            }
            all.wait().await;
            client.run().await?;
            client.finish().await
        });
    }
    let begin = async {
        all.wait().await;
        let _ = ready.send(());
        pending::<()>().await;
    };
    tokio::select! {
        () = begin => Ok(()),
        outcome = join(clients) => outcome,
    }
}

/// Waits for all clients, or for the first that fails.
async fn join(mut clients: JoinSet<Result<(), BenchError>>) -> Result<(), BenchError> {
    while let Some(outcome) = clients.join_next().await {
        outcome.map_err(|error| BenchError::Driver(io::Error::other(error)))??;
    }
    Ok(())
}
