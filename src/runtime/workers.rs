//! Work that may wait for the disk, on threads, because the runtime must not.
//!
//! A [`Worker`] is a loop that is fed by a queue: the commits of a node, its reads, the metadata of
//! the leader. What waits is here, what is done is there, one [turn](Worker::turn) at a time. In
//! test builds, within a simulation, the same turns are taken by a task of the simulated host, in
//! simulated time: no thread runs beside it, and a crash of the host ends the worker, too.

use std::io;
use std::ops::ControlFlow;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// What a thread does with what it is given.
pub trait Worker: Send + 'static {
    /// What it is given.
    type Input: Send + 'static;

    /// How long to wait for something before a turn is taken without; `None` for as long as it takes.
    fn patience(&self) -> Option<Duration>;

    /// One turn, with what has arrived first; the rest is the worker's to take from its queue.
    fn turn(&mut self, arrived: Result<Self::Input, RecvTimeoutError>) -> ControlFlow<()>;

    /// Called once after the last turn.
    fn end(self)
    where
        Self: Sized;
}

/// A worker that was started.
#[derive(Debug)]
pub struct Running(Option<std::thread::JoinHandle<()>>);

impl Running {
    /// Waits for its end, if it has a thread to wait for.
    pub fn join(self) {
        if let Some(thread) = self.0 {
            let _ = thread.join();
        }
    }
}

/// Starts a worker on a thread of this name, within the runtime of the caller if there is one.
pub fn start<W: Worker>(name: &str, queue: Receiver<W::Input>, worker: W) -> io::Result<Running> {
    #[cfg(test)]
    if turmoil::in_simulation() {
        tokio::spawn(simulated::run(worker, queue));
        return Ok(Running(None));
    }
    let runtime = Handle::try_current().ok();
    let thread = std::thread::Builder::new().name(name.into());
    let thread = thread.spawn(move || {
        let _runtime = runtime.as_ref().map(Handle::enter);
        run(worker, &queue);
    })?;
    Ok(Running(Some(thread)))
}

fn run<W: Worker>(mut worker: W, queue: &Receiver<W::Input>) {
    loop {
        let arrived = match worker.patience() {
            Some(patience) => queue.recv_timeout(patience),
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        if worker.turn(arrived).is_break() {
            return worker.end();
        }
    }
}

/// Does something once, on a thread that may wait.
pub async fn once<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(test)]
    if turmoil::in_simulation() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Where work that may wait leaves what it makes, for a task that takes it as a stream.
#[derive(Debug)]
pub struct Outlet<T>(mpsc::Sender<T>);

impl<T> Outlet<T> {
    /// Waits until there is room. False if nobody takes anything any more.
    pub fn send(&self, item: T) -> bool {
        #[cfg(test)]
        if turmoil::in_simulation() {
            return self.0.try_send(item).is_ok();
        }
        self.0.blocking_send(item).is_ok()
    }

    /// Waits for so long. In a simulation nothing waits: all is made in one moment.
    pub fn pause(&self, time: Duration) {
        #[cfg(test)]
        if turmoil::in_simulation() {
            return;
        }
        Handle::current().block_on(tokio::time::sleep(time));
    }
}

/// Makes something piece by piece, on a thread that may wait; at most `waiting` pieces are made
/// before they are taken.
pub fn produce<T, F>(waiting: usize, work: F) -> ReceiverStream<T>
where
    T: Send + 'static,
    F: FnOnce(&Outlet<T>) + Send + 'static,
{
    #[cfg(test)]
    if turmoil::in_simulation() {
        // Nobody can take anything meanwhile: all of it waits.
        let (outlet, pieces) = mpsc::channel(simulated::PIECES);
        work(&Outlet(outlet));
        return ReceiverStream::new(pieces);
    }
    let (outlet, pieces) = mpsc::channel(waiting);
    tokio::task::spawn_blocking(move || work(&Outlet(outlet)));
    ReceiverStream::new(pieces)
}

#[cfg(test)]
mod simulated {
    use crossbeam_channel::TryRecvError;

    use super::*;
    use crate::runtime::clock;

    /// How often a worker that waits looks, and how long a turn takes: a fast disk.
    const MOMENT: Duration = Duration::from_millis(1);
    pub(super) const PIECES: usize = 1 << 16;

    pub(super) async fn run<W: Worker>(mut worker: W, queue: Receiver<W::Input>) {
        loop {
            let arrived = wait(&queue, worker.patience()).await;
            if worker.turn(arrived).is_break() {
                return worker.end();
            }
            tokio::time::sleep(MOMENT).await;
        }
    }

    async fn wait<T>(
        queue: &Receiver<T>,
        patience: Option<Duration>,
    ) -> Result<T, RecvTimeoutError> {
        let until = patience.map(|patience| clock::now() + patience);
        loop {
            match queue.try_recv() {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if until.is_some_and(|until| clock::now() >= until) => {
                    return Err(RecvTimeoutError::Timeout);
                }
                Err(TryRecvError::Empty) => tokio::time::sleep(MOMENT).await,
            }
        }
    }
}
