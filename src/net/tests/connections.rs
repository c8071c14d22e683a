//! What a connection guarantees, whatever clients and backend do.

use super::*;
use crate::protocol::command::Command;
use crate::protocol::reply::Code;
use crate::runtime::clock;

#[tokio::test]
async fn replies_come_in_order_although_the_answers_do_not() {
    let server = Server::start(Answers::Held, options()).await;
    let mut client = server.connect().await;
    client.send("SET a 1\nGET a\nPING\nNOPE\nGET missing\nDEL a\n").await;
    until(|| server.backend.held() == 4).await;
    server.backend.release();
    client
        .expect("OK\nOK 1\nPONG\nERROR UNKNOWN_COMMAND 'NOPE' is no command; HELP lists them\n")
        .await;
    client.expect("ERROR NOT_FOUND there is no such key; SET stores one\nOK\n").await;
}

#[tokio::test]
async fn ten_thousand_requests_in_one_write_are_batches_not_requests() {
    for max_pipeline in [10_000, 100] {
        let server = Server::start(Answers::AtOnce, Options { max_pipeline, ..options() }).await;
        let mut client = server.connect().await;
        let line = |number: usize| format!("SET key{number} value{number}\nGET key{number}\n");
        let requests: String = (0..5_000).map(line).collect();
        let reply = |number: usize| format!("OK\nOK value{number}\n");
        let replies: String = (0..5_000).map(reply).collect();
        let (mut from, mut to) = client.0.get_mut().split();
        let mut got = vec![0; replies.len()];
        let (sent, read) =
            tokio::join!(to.write_all(requests.as_bytes()), within(from.read_exact(&mut got)));
        sent.unwrap();
        read.unwrap();
        assert!(got == replies.as_bytes(), "{}", show(&got));
        let batches = server.backend.batches();
        assert!(batches <= 10_000 / max_pipeline.min(50), "{batches} batches");
        let counted = server.metrics.requests.count(Some(Command::Get), Code::Ok);
        assert_eq!(counted, 5_000);
    }
}

#[tokio::test]
async fn a_request_that_waits_for_its_turn_has_its_time_from_then_on() {
    let server = Server::start(Answers::Held, Options { max_pipeline: 1, ..options() }).await;
    let mut client = server.connect().await;
    client.send("SET a 1\nSET b 2\n").await;
    until(|| server.backend.held() == 1).await;
    let released = clock::now();
    server.backend.release();
    until(|| server.backend.batches() == 2).await;
    assert!(server.backend.last_arrived() >= released, "it was read long before");
}

#[tokio::test]
async fn byte_by_byte_it_is_understood() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    client.0.get_ref().set_nodelay(true).unwrap();
    for byte in b"SET k hello\r\n\r\nget k\nPING\r\n" {
        client.send([*byte]).await;
        tokio::task::yield_now().await;
    }
    client.expect("OK\r\nOK hello\nPONG\r\n").await;
}

#[tokio::test]
async fn a_client_that_sends_no_more_still_gets_every_reply() {
    let server = Server::start(Answers::Held, options()).await;
    let mut client = server.connect().await;
    client.send("SET k v\nGET k\nSET half a val").await;
    client.0.shutdown().await.unwrap();
    until(|| server.backend.held() == 2).await;
    server.backend.release();
    assert_eq!(
        client.rest().await,
        "OK\nOK v\nERROR USAGE the last line has no end and was not carried out; end it with LF\n"
    );
}

#[tokio::test]
async fn quit_answers_what_came_before_and_nothing_after() {
    let server = Server::start(Answers::Held, options()).await;
    let mut client = server.connect().await;
    client.send("SET k v\r\nQUIT\r\nSET k other\r\n").await;
    until(|| server.backend.held() == 1).await;
    server.backend.release();
    assert_eq!(client.rest().await, "OK\r\nOK\r\n");
    assert_eq!(server.backend.batches(), 1);
}

#[tokio::test]
async fn an_oversized_line_between_good_ones_costs_an_error_and_no_memory() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    client.send("SET k v\nSET k ").await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..9 {
        client.send(&piece).await;
    }
    client
        .expect("OK\nERROR TOO_LARGE a value has at most 8388608 bytes; send a shorter one\n")
        .await;
    until(|| server.budget.used() == 0).await;
    for _ in 0..30 {
        client.send(&piece).await;
        assert!(server.budget.used() < 2 << 20);
    }
    client.send("x\nGET k\n").await;
    client.expect("OK v\n").await;
}

#[tokio::test]
async fn the_largest_value_comes_back_as_it_was() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    for length in [1_000_000, Limits::default().max_value_bytes] {
        let value: Vec<u8> = (0..length).map(|at| b"0123456789abcdef\xff\0"[at % 18]).collect();
        let request = [b"SET big ", value.as_slice(), b"\r\nGET big\r\n"].concat();
        client.send(request).await;
        client.expect([b"OK\r\nOK ", value.as_slice(), b"\r\n"].concat()).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_makes_the_server_hold_little() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    let value = "v".repeat(1_000_000);
    client.send(format!("SET k {value}\n")).await;
    client.expect("OK\n").await;
    let requests = "GET k\n".repeat(400);
    client.send(&requests).await;
    let limit = 2 * (32 << 20);
    until(|| server.budget.used() > 0).await;
    let mut most = 0;
    let (mut got, mut busy) = (0, 0);
    for _ in 0..400 {
        most = most.max(server.budget.used());
        let line = client.line_of_bytes().await;
        if line.starts_with(b"ERROR BUSY ") {
            busy += 1;
        } else {
            assert!(line.len() == value.len() + 4 && line.starts_with(b"OK v"), "{}", show(&line));
            got += 1;
        }
    }
    assert!(most <= limit, "held {most}");
    assert_eq!((got, busy), (400, 0), "a client that does read at last gets everything");
}

#[tokio::test]
async fn short_requests_with_long_replies_do_not_pile_up() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    client.send("HELP\nQUIT\n").await;
    let reply_bytes = client.rest().await.len() - "OK\n".len();
    let (mut from, mut to) = server.connect().await.0.into_inner().into_split();
    let sent = tokio::spawn(async move { to.write_all(&b"HELP\n".repeat(100_000)).await });
    until(|| server.budget.used() > 1 << 20).await;
    let (mut most, mut left, mut piece) = (0, 100_000 * reply_bytes, vec![0; 1 << 20]);
    while left > 0 {
        left -= within(from.read(&mut piece)).await.unwrap();
        most = most.max(server.budget.used());
    }
    let one_turn = options().max_pipeline * reply_bytes;
    assert!(most < one_turn + (2 << 20), "held {most}");
    sent.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_is_closed_with_bytes_unread_still_gets_its_last_replies() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut client = server.connect().await;
    let value = "v".repeat(1_000_000);
    client.send(format!("SET k {value}\n")).await;
    client.expect("OK\n").await;
    client.send(format!("GET k\nQUIT\n{}", "too late\n".repeat(200_000))).await;
    until(|| server.metrics.connections.get() == 0).await;
    assert!(client.rest().await == format!("OK {value}\nOK\n"));
}

#[tokio::test]
async fn a_batch_that_is_shed_is_busy_and_the_connection_stays_usable() {
    let server = Server::start(Answers::Refused, options()).await;
    let mut client = server.connect().await;
    client.send("SET k v\nPING\nGET k\n").await;
    let busy =
        "ERROR BUSY too much is in flight, nothing changed; send less at once, or try later\n";
    client.expect(format!("{busy}PONG\n{busy}")).await;
    client.send("PING\n").await;
    client.expect("PONG\n").await;
}

#[tokio::test]
async fn a_large_line_is_given_up_when_all_together_hold_too_much() {
    let server = Server::start(Answers::AtOnce, options()).await;
    let mut others = server.budget.share();
    others.resize(65 << 20);
    let mut client = server.connect().await;
    client.send([b"SET k ", vec![b'v'; 200 << 10].as_slice()].concat()).await;
    client.expect("ERROR BUSY too much is in flight").await;
    client.line().await;
    drop(others);
    client.send("v\nSET k small\nGET k\n").await;
    client.expect("OK\nOK small\n").await;
}

#[tokio::test]
async fn a_large_line_that_stands_still_is_dropped_and_what_it_held_given_back() {
    let stall = Duration::from_millis(20);
    let timeouts = Timeouts { stall, ..options().timeouts };
    let server = Server::start(Answers::AtOnce, Options { timeouts, ..options() }).await;
    let mut client = server.connect().await;
    client.send([b"SET k ", vec![b'v'; 200 << 10].as_slice()].concat()).await;
    let dropped = "the rest of the line did not come and it was dropped; send it all at once";
    client.expect(format!("ERROR BUSY {dropped}\n")).await;
    until(|| server.budget.used() == 0).await;
    client.send("v\nSET k small\nGET k\n").await;
    client.expect("OK\nOK small\n").await;
}

#[tokio::test]
async fn one_connection_too_many_is_told_and_closed() {
    let server = Server::start(Answers::AtOnce, Options { max_connections: 1, ..options() }).await;
    let mut first = server.connect().await;
    first.send("PING\n").await;
    first.expect("PONG\n").await;
    let mut second = server.connect().await;
    second.send("PING\n").await;
    let told = second.rest().await;
    assert_eq!(told, "ERROR BUSY all 1 connections are taken; close one, or try later\n");
    assert_eq!(server.metrics.refused_connections.get(), 1);
    drop(first);
    until(|| server.metrics.connections.get() == 0).await;
    let mut third = server.connect().await;
    third.send("PING\n").await;
    third.expect("PONG\n").await;
}

#[tokio::test]
async fn at_shutdown_what_was_accepted_is_answered_and_nothing_more() {
    let server = Server::start(Answers::Held, options()).await;
    let mut client = server.connect().await;
    let mut idle = server.connect().await;
    client.send("SET k v\n").await;
    until(|| server.backend.held() == 1).await;
    server.tasks.stop();
    assert_eq!(idle.rest().await, "");
    client.send("SET k late\n").await;
    server.backend.release();
    assert_eq!(client.line().await, "OK\n");
    assert!(server.tasks.finish(PATIENCE).await);
    assert_eq!(server.backend.batches(), 1);
    assert!(TcpStream::connect(server.address).await.is_err());
    assert_eq!(server.budget.used(), 0);
}
