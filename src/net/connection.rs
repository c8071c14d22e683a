//! One client's connection: a single task, woken once for whatever has happened meanwhile.
//!
//! Each turn takes the answers that have come, writes all replies that are due with one write,
//! reads one chunk, parses every whole request in it and hands them over as one batch. Nothing
//! waits for a batch to fill: while one is being answered, the next one arrives.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tower::{BoxError, Service, ServiceExt};

use super::batch::{Answer, Asked, Batch, ReplyReceiver, ReplySender};
use super::budget::Share;
use super::output::Output;
use super::patience::{LARGE_WHEN_CROWDED_BYTES, Lost, Patience, Timeouts};
use super::window::{Slot, Window, WindowLimits};
use crate::protocol::command::{Command, Local, Request};
use crate::protocol::line::{Item, Limits, LineParser, Parsed};
use crate::protocol::reply::{Outcome, Refusal, Renderer, Reply, Sink};
use crate::runtime::clock;
use crate::runtime::metrics::{ClientMetrics, Tally};
use crate::types::Moment;

/// A read takes at least this much; more after reads that were full.
const MIN_CHUNK_BYTES: usize = 4 << 10;
/// And at most this much.
const MAX_CHUNK_BYTES: usize = 256 << 10;
/// With more than this unwritten, nothing further is read: the client is to read first.
const MAX_UNWRITTEN_BYTES: usize = 1 << 20;
/// A connection that has nothing to do keeps no more than this for reading.
const IDLE_INPUT_BYTES: usize = 16 << 10;
/// Messages with answers taken in one turn.
const MAX_MESSAGES: usize = 256;
/// How long a connection that was closed from here still takes what the client had sent: closing
/// over unread bytes would reset it, and the client could lose its last replies.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection has to keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) renderer: Renderer,
    pub(crate) limits: Limits,
    pub(crate) window: WindowLimits,
    pub(crate) timeouts: Timeouts,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Requests come.
    Open,
    /// The client sends no more; what it has sent still counts.
    Ended,
    /// No further request is taken; replies that are due still go out.
    Closing,
}

/// The state of one connection.
pub(crate) struct Connection<I, S> {
    io: I,
    service: S,
    parser: LineParser,
    renderer: Renderer,
    input: BytesMut,
    chunk: usize,
    /// Since when the requests that are taken next count.
    arrived: Moment,
    /// Something was read since requests were taken last.
    fresh: bool,
    window: Window,
    output: Output,
    sender: ReplySender,
    receiver: ReplyReceiver,
    messages: Vec<Vec<Answer>>,
    share: Share,
    metrics: ClientMetrics,
    tally: Tally,
    phase: Phase,
    half_closed: bool,
    patience: Patience,
}

impl<I, S> Connection<I, S>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<Batch, Response = Vec<Answer>, Error = BoxError>,
{
    pub(crate) fn new(
        io: I,
        service: S,
        settings: Settings,
        share: Share,
        metrics: ClientMetrics,
    ) -> Self {
        let (sender, receiver) = ReplySender::new();
        Self {
            io,
            service,
            parser: LineParser::new(settings.limits),
            renderer: settings.renderer,
            input: BytesMut::new(),
            chunk: MIN_CHUNK_BYTES,
            arrived: clock::now(),
            fresh: false,
            window: Window::new(settings.window),
            output: Output::default(),
            sender,
            receiver,
            messages: Vec::new(),
            share,
            metrics,
            tally: Tally::default(),
            phase: Phase::Open,
            half_closed: false,
            patience: Patience::new(settings.timeouts),
        }
    }

    /// Serves the client until either side is done. Once `stop` completes, nothing further is read
    /// and what was accepted is still answered.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut stopping = false;
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut waiting = false;
        loop {
            let requests = self.take_requests();
            if !requests.is_empty() {
                self.hand_over(requests).await;
            }
            if self.is_done() {
                break;
            }
            self.share.resize(self.held_bytes());
            if let Some(period) = self.patience.period().filter(|_| !waiting) {
                waiting = true;
                timer.set(tokio::time::sleep(period));
            }
            tokio::select! {
                biased;
                turn = poll_fn(|context| self.poll_turn(context)) => if turn.is_err() { return },
                () = &mut stop, if !stopping => {
                    stopping = true;
                    self.refuse_further();
                }
                () = &mut timer, if waiting => {
                    waiting = false;
                    if self.lose_patience() {
                        return;
                    }
                }
            }
        }
        let _ = self.io.shutdown().await;
        if !stopping && !self.half_closed {
            linger(&mut self.io).await;
        }
    }

    fn is_done(&self) -> bool {
        self.phase == Phase::Closing && self.window.is_empty() && self.output.is_empty()
    }

    fn held_bytes(&self) -> usize {
        self.input.len() + self.window.held_bytes() + self.output.bytes()
    }

    /// Whether one more request may be taken. One may always be when nothing is in flight, so that
    /// the connection cannot be stuck.
    fn may_take_more(&self) -> bool {
        let idle = self.window.is_empty() && self.output.is_empty();
        let unwritten = self.output.bytes();
        self.window.is_open(unwritten)
            && unwritten < MAX_UNWRITTEN_BYTES
            && (idle || !self.share.budget().is_exhausted())
    }

    /// Parses the whole requests that have been read. What others answer is returned.
    fn take_requests(&mut self) -> Vec<(u64, Asked)> {
        let mut asked = Vec::new();
        // What waited here until the client had read enough has not waited for us: it has its time
        // from now on.
        if !std::mem::take(&mut self.fresh) && !self.input.is_empty() {
            self.arrived = clock::now();
        }
        while self.phase != Phase::Closing && self.may_take_more() {
            match self.parser.next(&mut self.input) {
                Some(Item::Request(parsed)) => {
                    self.patience.line_ended();
                    asked.extend(self.take(parsed));
                }
                Some(Item::Resp) => self.refuse_resp(),
                None => {
                    self.take_rest();
                    return asked;
                }
            }
        }
        // Nothing is read now, and the client not waited for.
        self.patience.line_ended();
        asked
    }

    fn take(&mut self, parsed: Parsed) -> Option<(u64, Asked)> {
        let command = parsed.request.as_ref().map(Request::command).ok();
        let slot = Slot::new(command, parsed.end, self.renderer, self.arrived);
        match parsed.request {
            Ok(Request::Key(operation)) => {
                let number = self.window.wait(slot, operation.bytes());
                Some((number, Asked::Key(operation)))
            }
            Ok(Request::Cluster(question)) => {
                Some((self.window.wait(slot, 0), Asked::Cluster(question)))
            }
            Ok(Request::Connection(local)) => {
                let reply = self.obey(local);
                self.window.settle(slot, reply);
                None
            }
            Err(refusal) => {
                self.refuse(slot, refusal);
                None
            }
        }
    }

    fn obey(&mut self, local: Local) -> Reply {
        match local {
            Local::Ping => Reply::Pong,
            Local::Help => Reply::Help,
            Local::Mode(mode) => {
                self.renderer = Renderer::for_mode(mode).unwrap_or(self.renderer);
                Reply::Done
            }
            Local::Quit => {
                self.refuse_further();
                Reply::Done
            }
        }
    }

    fn refuse(&mut self, mut slot: Slot, refusal: Refusal) {
        slot.command = refused_command(&refusal);
        self.window.settle(slot, Reply::Refused(refusal));
    }

    /// The client speaks another protocol, in which this is an error.
    fn refuse_resp(&mut self) {
        self.output.text(b"-ERR RESP is not supported yet; use the line protocol\r\n");
        self.refuse_further();
    }

    fn refuse_further(&mut self) {
        self.patience.line_ended();
        self.phase = Phase::Closing;
        self.input = BytesMut::new();
    }

    /// Decides about the line that has only begun.
    fn take_rest(&mut self) {
        if self.phase == Phase::Ended {
            self.abandon(Refusal::Unfinished);
            self.refuse_further();
            return;
        }
        let large = self.input.len() >= LARGE_WHEN_CROWDED_BYTES;
        if large && self.share.budget().is_exhausted() {
            self.abandon(Refusal::Busy);
        }
        if self.parser.is_within_line(&self.input) {
            self.patience.line_began(self.arrived);
        } else {
            self.patience.line_ended();
        }
    }

    /// Ends what the client does not go on with. Says whether the connection is to end at once.
    fn lose_patience(&mut self) -> bool {
        let (held, crowded) = (self.input.len(), self.share.is_crowded());
        match self.patience.verdict(clock::now(), held, crowded) {
            None => return false,
            Some(Lost::Stalled) => self.abandon(Refusal::Stalled),
            Some(Lost::Overdue) => {
                self.metrics.timed_out_connections.inc();
                self.abandon(Refusal::Stalled);
                self.refuse_further();
            }
            Some(Lost::Unread) => {
                self.metrics.timed_out_connections.inc();
                return true;
            }
        }
        false
    }

    fn abandon(&mut self, refusal: Refusal) {
        if let Some(parsed) = self.parser.abandon(&mut self.input, refusal) {
            self.take(parsed);
        }
    }

    /// Gives a batch to the service. If it takes none, it was not begun.
    async fn hand_over(&mut self, requests: Vec<(u64, Asked)>) {
        let first = requests.first().map_or_else(|| self.window.next_slot(), |(slot, _)| *slot);
        let alone = self.window.waiting() == requests.len();
        let batch = Batch { requests, replies: self.sender.clone(), arrived: self.arrived, alone };
        let taken = match self.service.ready().await {
            Ok(service) => service.call(batch).await,
            Err(error) => Err(error),
        };
        match taken {
            Ok(answers) => self.settle(answers),
            Err(_) => self.window.answer_all_from(first, &Outcome::Busy),
        }
    }

    /// Does whatever can be done now; pending if that is nothing.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let answered = self.take_answers(context);
        self.render_due();
        let wrote = self.write(context)?;
        let read = self.read(context)?;
        if answered || wrote || read { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn take_answers(&mut self, context: &mut Context<'_>) -> bool {
        let polled = self.receiver.poll_recv_many(context, &mut self.messages, MAX_MESSAGES);
        let mut messages = std::mem::take(&mut self.messages);
        messages.drain(..).for_each(|answers| self.settle(answers));
        self.messages = messages;
        polled.is_ready()
    }

    fn settle(&mut self, answers: Vec<Answer>) {
        let elsewhere = self.input.len() + self.output.bytes();
        let mut room = self.window.room(self.share.allowance().saturating_sub(elsewhere));
        room.expected = room.expected.saturating_sub(self.output.bytes());
        for (number, outcome) in answers {
            if !self.window.answer(number, outcome, room) {
                tracing::error!(number, "an answer came for which no request waits");
            }
        }
        self.share.resize(self.held_bytes());
    }

    fn render_due(&mut self) {
        let mut now = None;
        while let Some((slot, reply)) = self.window.pop_due() {
            let code = slot.renderer.render(reply, slot.end, &mut self.output);
            let took = now.get_or_insert_with(clock::now).since(slot.arrived);
            self.tally.count(slot.command, code, took);
        }
        self.tally.flush(&self.metrics.requests);
    }

    /// Writes as much as the socket takes. Says whether that was anything.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut wrote = 0;
        while !self.output.is_empty() {
            let io = Pin::new(&mut self.io);
            // Replies are mostly one piece of memory, which the kernel takes with less ado.
            let written = match self.output.slices().as_slice() {
                [only] => io.poll_write(context, only),
                several => io.poll_write_vectored(context, several),
            };
            match written {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => {
                    let written = written?;
                    self.output.advance(written);
                    wrote += written;
                }
            }
        }
        if self.output.is_empty() {
            self.patience.replies_gone();
        } else {
            self.patience.replies_wait(wrote > 0, clock::now);
        }
        if wrote > 0 {
            self.metrics.sent.inc_by(u64::try_from(wrote).unwrap_or(u64::MAX));
        }
        Ok(wrote > 0)
    }

    /// Reads one chunk, if more may be taken. Says whether something came, be it the end.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.phase != Phase::Open || !self.may_take_more() {
            return Ok(false);
        }
        let exhausted = self.share.budget().is_exhausted();
        let room = if exhausted { MIN_CHUNK_BYTES } else { self.chunk };
        self.input.reserve(room);
        let mut into = (&mut self.input).limit(room);
        let Poll::Ready(read) = pin!(self.io.read_buf(&mut into)).poll(context) else {
            self.give_back();
            return Ok(false);
        };
        let read = read?;
        if read == 0 {
            self.phase = Phase::Ended;
            self.half_closed = true;
        }
        self.arrived = clock::now();
        self.patience.received(read, self.arrived);
        self.fresh = true;
        self.metrics.received.inc_by(u64::try_from(read).unwrap_or(u64::MAX));
        self.adapt_chunk(read, room);
        Ok(true)
    }

    /// What was needed for requests that are over is not kept by thousands that are idle.
    fn give_back(&mut self) {
        if self.window.is_empty() && self.output.is_empty() && self.input.is_empty() {
            if self.input.capacity() > IDLE_INPUT_BYTES {
                self.input = BytesMut::new();
            }
            self.output.give_back();
            self.window.give_back();
        }
    }

    /// Reads more at once from a client that fills its chunks, less from one that does not.
    fn adapt_chunk(&mut self, read: usize, room: usize) {
        if read == room {
            self.chunk = (self.chunk * 2).min(MAX_CHUNK_BYTES);
        } else if read < self.chunk / 4 {
            self.chunk = (self.chunk / 2).max(MIN_CHUNK_BYTES);
        }
    }
}

/// The command that a refused line was, as far as it was one.
fn refused_command(refusal: &Refusal) -> Option<Command> {
    match refusal {
        Refusal::Usage(command) | Refusal::Key(command) => Some(*command),
        Refusal::Mode(_) => Some(Command::Mode),
        _ => None,
    }
}

/// Takes what the client still sends, for a while, so that it can read its last replies.
pub(crate) async fn linger(io: &mut (impl AsyncRead + Unpin)) {
    let rest = async {
        let mut ignored = [0; 1024];
        while io.read(&mut ignored).await.is_ok_and(|read| read > 0) {}
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}
