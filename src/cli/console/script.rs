//! A script from standard input: its requests are pipelined as fast as they come.

use std::io::Write;

use anyhow::Context;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

use super::super::output::Outcome;
use crate::client::{Client, Request};

/// The longest line; longer ones are no requests of any server.
const MAX_LINE_BYTES: usize = 1 << 30;
/// What is read from standard input at once.
const READ_BYTES: usize = 256 * 1024;

/// Sends every line and prints every reply; fails if any is an `ERROR`.
pub(super) async fn run(client: &mut Client) -> anyhow::Result<Outcome> {
    let mut input = BufReader::with_capacity(READ_BYTES, tokio::io::stdin());
    let mut outcome = Outcome::Done;
    let mut replies = Vec::new();
    loop {
        let batch = next_batch(&mut input).await?;
        if batch.requests.is_empty() && batch.end {
            return Ok(outcome);
        }
        let sent = client.pipeline(&batch.requests, &mut replies).await;
        let mut stdout = std::io::stdout().lock();
        for reply in replies.drain(..) {
            if reply.refusal().is_some() {
                outcome = Outcome::Failed;
            }
            for line in reply.lines() {
                stdout.write_all(line)?;
                stdout.write_all(b"\n")?;
            }
        }
        stdout.flush()?;
        sent?;
        if batch.end {
            return Ok(outcome);
        }
    }
}

/// Requests that came together, and whether they are the last.
#[derive(Debug, Default)]
struct Batch {
    requests: Vec<Request>,
    end: bool,
}

/// Waits for a line, and takes along those that are there already: a script is sent at full
/// speed, and what is typed into a pipe is answered line by line.
async fn next_batch<R>(input: &mut BufReader<R>) -> anyhow::Result<Batch>
where
    BufReader<R>: AsyncBufRead + Unpin,
    R: tokio::io::AsyncRead,
{
    let mut batch = Batch::default();
    while batch.requests.is_empty() || input.buffer().contains(&b'\n') {
        let Some(line) = next_line(input).await? else {
            batch.end = true;
            break;
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        anyhow::ensure!(
            !super::is_unreadable(&line),
            "replies of mode detailed have no end that a program can see; use nc for it"
        );
        batch.requests.push(Request::raw(&line)?);
        if super::is_farewell(&line) {
            batch.end = true;
            break;
        }
    }
    Ok(batch)
}

/// The next line without its end; the last may lack one.
async fn next_line(input: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = input.take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).await;
    if read.context("cannot read standard input")? == 0 {
        return Ok(None);
    }
    anyhow::ensure!(line.len() < MAX_LINE_BYTES, "a line is longer than {MAX_LINE_BYTES} bytes");
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_that_are_there_are_sent_together_up_to_the_farewell() {
        let mut input = BufReader::new(&b"SET a 1\r\n\n  \nGET a\nQUIT\nGET b"[..]);
        let batch = next_batch(&mut input).await.unwrap();
        let expected = [&b"SET a 1"[..], b"GET a", b"QUIT"].map(|l| Request::raw(l).unwrap());
        assert_eq!(batch.requests, expected);
        assert!(batch.end);
    }

    #[tokio::test]
    async fn the_last_line_needs_no_end() {
        let mut input = BufReader::new(&b"PING"[..]);
        let batch = next_batch(&mut input).await.unwrap();
        assert_eq!(batch.requests, [Request::raw(b"PING").unwrap()]);
        assert!(next_batch(&mut input).await.unwrap().end);
    }

    #[tokio::test]
    async fn a_mode_whose_replies_have_no_end_is_refused() {
        let mut input = BufReader::new(&b"mode detailed\n"[..]);
        assert!(next_batch(&mut input).await.unwrap_err().to_string().contains("nc"));
    }
}
