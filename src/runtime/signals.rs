//! The signals a process is told things by.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The wish that the process ends: SIGTERM from supervisors, SIGINT from a terminal.
#[derive(Debug)]
pub struct Terminations {
    terminate: Signal,
    interrupt: Signal,
}

impl Terminations {
    /// From now on these signals no longer end the process by themselves.
    ///
    /// # Errors
    /// If the operating system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one, and names it. A second one usually means "at once".
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The wish that settings are read again: SIGHUP.
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// From now on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// If the operating system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        let _ = self.0.recv().await;
    }
}
