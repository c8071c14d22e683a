//! A client that asks and does not listen: it must not fill the leader's memory, nor hold up others.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use turmoil::net::TcpStream;

use super::clients::{self, SharedLog};
use super::hosts::{ADMIN_PORT, LEADER};
use super::scene::Scene;
use crate::logic::history::Outcome;
use crate::simulation::random::Random;
use crate::types::Key;

const VALUE_BYTES: usize = 16 << 10;
const ASKED: usize = 2_000;
/// What sockets hold, and what the leader keeps for one connection: 64 requests in flight and 1 MiB
/// of replies. All that was asked for would be five times as much.
const ANSWERED_UNHEARD: usize = 400;

#[test]
fn a_client_that_does_not_listen_is_answered_no_further() {
    let mut scene = Scene::new();
    scene.add_leader();
    (1..=3).for_each(|node| drop(scene.add_node(node)));
    let log = SharedLog::default();
    let other = clients::ask_on(0, vec![Key("other".into())], 20, Random::new(1), log.clone());
    scene.sim.client("other", other);
    let done = Rc::new(Cell::new(false));
    let (told, seen) = (Rc::clone(&done), log.clone());
    scene.sim.client("deaf", async move {
        ask_much_and_listen_late(seen).await?;
        told.set(true);
        Ok(())
    });
    scene.run_until("every answer was read", || done.get(), Duration::from_mins(1));
    assert!(done.get(), "what was accepted is answered once the client listens");
    let log = log.borrow();
    assert_eq!(log.violation, None);
    let answered = log.history.iter().filter(|it| matches!(it.outcome, Outcome::Stored { .. }));
    assert!(answered.count() > 100, "others are served meanwhile");
}

async fn ask_much_and_listen_late(log: SharedLog) -> turmoil::Result {
    let mut stream = loop {
        sleep(Duration::from_secs(4)).await;
        if let Some(stream) = clients::connect().await {
            break stream;
        }
    };
    let value = "v".repeat(VALUE_BYTES);
    let set = format!("SET big {value}\n");
    let stored = clients::exchange(&mut stream, set.as_bytes()).await;
    assert_eq!(stored.as_deref(), Some(b"OK".as_slice()));
    stream.write_all("GET big\n".repeat(ASKED).as_bytes()).await?;
    sleep(Duration::from_secs(5)).await;
    let early = answered(&log).await?;
    sleep(Duration::from_secs(5)).await;
    let late = answered(&log).await?;
    assert!(late <= early + 1, "nothing more is answered while nobody listens: {early}, {late}");
    assert!((1..ANSWERED_UNHEARD).contains(&late), "{late} answers wait for a client that is deaf");

    // What had been read of the client meanwhile, and not been taken on, is too late by now.
    let (mut heard, mut values) = (0, 0);
    let mut replies = BytesMut::with_capacity(VALUE_BYTES);
    while heard < ASKED {
        let read = stream.read_buf(&mut replies).await?;
        assert_ne!(read, 0, "the connection ended after {heard} replies");
        while let Some(end) = replies.iter().position(|byte| *byte == b'\n') {
            let reply = replies.split_to(end + 1);
            let is_value = reply.len() == "OK \n".len() + VALUE_BYTES;
            assert!(is_value || reply.starts_with(b"ERROR UNAVAILABLE"), "{reply:?}");
            heard += 1;
            values += usize::from(is_value);
        }
    }
    assert!(values > ASKED / 2, "only {values} of {ASKED} were answered with the value");
    Ok(())
}

/// How many `GET` of the deaf client the leader has answered, by its own metrics: all, but for those
/// that the other client knows of.
async fn answered(log: &SharedLog) -> turmoil::Result<usize> {
    let mut stream = TcpStream::connect((LEADER, ADMIN_PORT)).await?;
    let request = "GET /metrics HTTP/1.1\r\nHost: leader\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let metric = r#"hatokuse_requests_total{command="get",result="ok"} "#;
    let all = reply.lines().find_map(|line| line.strip_prefix(metric)).ok_or("no such metric")?;
    let log = log.borrow();
    let others = log.history.iter().filter(|it| matches!(it.outcome, Outcome::Value { .. }));
    Ok(all.trim().parse::<usize>()? - others.count())
}
