//! The process that started this one, watched through standard input.

use std::io::Read;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;

/// Once the parent is gone, a child that does not end in good order within this time ends anyhow.
const END_WITHIN: Duration = Duration::from_secs(20);

/// The end of the process that started this one.
#[derive(Debug)]
pub(in crate::cli) struct Parent(Option<oneshot::Receiver<()>>);

impl Parent {
    /// Watches standard input, if asked to. A thread of its own does, since nothing can interrupt
    /// that read and the runtime would wait for it at the end.
    pub(in crate::cli) fn watch(asked: bool) -> anyhow::Result<Self> {
        if !asked {
            return Ok(Self(None));
        }
        let (gone, receiver) = oneshot::channel();
        let watch = move || {
            await_end_of_input();
            let _ = gone.send(());
            thread::park_timeout(END_WITHIN);
            tracing::error!("did not end within {END_WITHIN:?} after the parent process; exiting");
            std::process::exit(1);
        };
        thread::Builder::new()
            .name("parent".into())
            .spawn(watch)
            .context("cannot start a thread")?;
        Ok(Self(Some(receiver)))
    }

    /// Completes when the parent is gone; never, if nobody asked to watch it.
    pub(in crate::cli) async fn gone(&mut self) {
        match self.0.take() {
            Some(receiver) => {
                let _ = receiver.await;
                tracing::info!("the process that started this one is gone");
            }
            None => std::future::pending().await,
        }
    }
}

fn await_end_of_input() {
    let mut buffer = [0; 512];
    let mut input = std::io::stdin().lock();
    while matches!(input.read(&mut buffer), Ok(count) if count > 0) {}
}
