//! Readers: a small pool of threads, beside the commit thread and off the runtime, since a read that
//! misses the page cache waits for the disk.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam_channel::{RecvTimeoutError, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Reader;
use super::figures::Figures;
use super::served::Served;
use super::stream::LeaderStream;
use crate::rpc::{convert, v1};
use crate::runtime::workers::{self, Worker};
use crate::storage::ReadError;
use crate::types::Token;

/// Reads that may wait for a thread.
const WAITING_READS: usize = 16 << 10;
/// A thread takes so many at a time, so that a large batch is shared among the threads.
const READS_AT_ONCE: usize = 64;
/// Answers are handed over when they have this many bytes.
const ANSWER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct Job {
    stream: Arc<LeaderStream>,
    reads: Vec<v1::Read>,
    _room: OwnedSemaphorePermit,
}

/// What the threads share.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) reader: Reader,
    pub(crate) served: Arc<Served>,
    pub(crate) figures: Arc<Figures>,
}

/// The way to the readers. The threads end with the last clone of it.
#[derive(Clone, Debug)]
pub(crate) struct Readers {
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
}

impl Readers {
    /// Starts so many threads, at least one.
    pub(crate) fn start(threads: usize, source: &Source) -> io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        for number in 1..=threads.max(1) {
            workers::start(&format!("read-{number}"), queue.clone(), source.clone())?;
        }
        Ok(Self { jobs, room: Arc::new(Semaphore::new(WAITING_READS)) })
    }

    /// Hands over reads, when there is room for them. The answers go to the stream.
    pub(crate) async fn read(&self, stream: &Arc<LeaderStream>, mut reads: Vec<v1::Read>) {
        while !reads.is_empty() {
            let rest = reads.split_off(READS_AT_ONCE.min(reads.len()));
            let part = std::mem::replace(&mut reads, rest);
            let units = u32::try_from(part.len()).unwrap_or(u32::MAX);
            let Ok(room) = Arc::clone(&self.room).acquire_many_owned(units).await else { return };
            let stream = Arc::clone(stream);
            let _ = self.jobs.send(Job { stream, reads: part, _room: room });
        }
    }
}

impl Worker for Source {
    type Input = Job;

    fn patience(&self) -> Option<Duration> {
        None
    }

    fn turn(&mut self, arrived: Result<Job, RecvTimeoutError>) -> ControlFlow<()> {
        let Ok(job) = arrived else { return ControlFlow::Break(()) };
        if !job.stream.is_closed() {
            self.answer(&job);
        }
        ControlFlow::Continue(())
    }

    fn end(self) {}
}

impl Source {
    fn answer(&self, job: &Job) {
        let mut answers = Vec::with_capacity(job.reads.len());
        let mut bytes = 0;
        for read in &job.reads {
            let (status, record) = self.look_up(read);
            bytes += record.len();
            let (id, partition) = (read.id, read.partition);
            answers.push(v1::ReadAnswer { id, partition, status: status.into(), record });
            if bytes > ANSWER_BYTES {
                bytes = 0;
                job.stream.answer(std::mem::take(&mut answers));
            }
        }
        self.figures.read(job.reads.len());
        if !answers.is_empty() {
            job.stream.answer(answers);
        }
    }

    fn look_up(&self, read: &v1::Read) -> (v1::ReadStatus, Bytes) {
        let place = convert::partition(read.partition)
            .and_then(|partition| Ok((partition, convert::key_hash(&read.key_hash)?)));
        let Ok((partition, key_hash)) = place else { return refused() };
        if self.served.token(partition) != Some(Token(read.token)) {
            return refused();
        }
        match self.reader.get(partition, key_hash) {
            Ok(Some(record)) => (v1::ReadStatus::Found, record),
            Ok(None) => (v1::ReadStatus::Absent, Bytes::new()),
            Err(ReadError::Failed | ReadError::Partition(_)) => refused(),
            Err(error) => {
                tracing::error!(%partition, %error, "a record could not be read");
                (v1::ReadStatus::Damaged, Bytes::new())
            }
        }
    }
}

fn refused() -> (v1::ReadStatus, Bytes) {
    (v1::ReadStatus::Refused, Bytes::new())
}
