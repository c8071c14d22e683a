//! The client against a server that says what it is told to.

use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{Client, ClientError, NodeRow, Options, Reply, Request, RequestError, Written};

/// What the server does with one connection.
enum Step {
    /// Reads a line, which must be this one.
    Expect(&'static str),
    /// Sends these bytes.
    Say(&'static str),
    /// Waits for the other side to close.
    Hold,
}

use Step::{Expect, Hold, Say};

/// A server that plays one script a connection, then closes it.
async fn server(scripts: Vec<Vec<Step>>) -> (Client, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Options::new(listener.local_addr().unwrap().to_string());
    options.reply_timeout = Duration::from_millis(300);
    let playing = tokio::spawn(async move {
        for script in scripts {
            let (stream, _) = listener.accept().await.unwrap();
            play(stream, script).await;
        }
    });
    (Client::new(options), playing)
}

async fn play(stream: TcpStream, script: Vec<Step>) {
    let mut stream = BufReader::new(stream);
    for step in script {
        match step {
            Expect(line) => {
                let mut got = String::new();
                stream.read_line(&mut got).await.unwrap();
                assert_eq!(got, format!("{line}\n"));
            }
            Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
            Hold => {
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        }
    }
}

/// Waits until the end of the connection has reached the client.
async fn closed(client: &Client) {
    let connection = client.connection.as_ref().unwrap();
    let gone = async { while connection.is_open().await {} };
    tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
}

fn reply(lines: &[&'static str]) -> Reply {
    Reply::new(lines.iter().map(|line| bytes::Bytes::from_static(line.as_bytes())).collect())
}

#[tokio::test]
async fn every_reply_is_understood() {
    let (mut client, playing) = server(vec![vec![
        Expect("SET k  two spaces "),
        Say("OK\n"),
        Expect("UPD k v"),
        Say("OK DEGRADED 3/4\n"),
        Expect("GET k"),
        Say("OK OK DEGRADED 3/4\n"),
        Expect("GET empty"),
        Say("OK \n"),
        Expect("GET nope"),
        Say("ERROR NOT_FOUND no such key\n"),
        Expect("DEL k"),
        Say("OK\n"),
        Expect("NODES"),
        Say("Node: 0197-a -> 127.0.0.1:50052\nNode: 0197-b -> [::1]:50053\nOK\n"),
        Expect("FILES"),
        Say("[::1]:50053: 17\nOK\n"),
        Expect("STATUS"),
        Say("all is well\nOK\n"),
        Expect("WHERE k"),
        Say("ERROR UNAVAILABLE later\n"),
    ]])
    .await;
    assert_eq!(client.set(b"k", b" two spaces ").await.unwrap(), Written::Full {});
    let degraded = Written::Degraded { copies: 3, tolerance: 4 };
    assert_eq!(client.update(b"k", b"v").await.unwrap(), degraded);
    assert_eq!(client.get(b"k").await.unwrap().unwrap(), "OK DEGRADED 3/4");
    assert_eq!(client.get(b"empty").await.unwrap().unwrap(), "");
    assert_eq!(client.get(b"nope").await.unwrap(), None);
    client.delete(b"k").await.unwrap();
    let nodes = client.nodes().await.unwrap();
    let second = NodeRow { id: "0197-b".to_owned(), address: "[::1]:50053".to_owned() };
    assert_eq!(nodes.get(1), Some(&second));
    assert_eq!(client.files().await.unwrap()[0].records, 17);
    assert_eq!(client.status().await.unwrap(), ["all is well"]);
    let refused = client.where_(b"k").await.unwrap_err();
    assert_eq!(refused.code(), Some("UNAVAILABLE"));
    assert_eq!(refused.to_string(), "UNAVAILABLE later");
    playing.await.unwrap();
}

#[tokio::test]
async fn pipelined_requests_of_any_size_get_their_replies_in_order() {
    const COUNT: usize = 64;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // A client that wrote everything before it read anything would hang here, as would this
    // server: 64 MiB are more than the sockets hold.
    let echo = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (reading, mut writing) = stream.split();
        let mut lines = BufReader::new(reading).lines();
        for _ in 0..COUNT {
            let line = lines.next_line().await.unwrap().unwrap();
            writing.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
    });
    let value = vec![b'x'; 1 << 20];
    let requests: Vec<_> = (0..COUNT)
        .map(|number| Request::set(number.to_string().as_bytes(), &value).unwrap())
        .collect();
    let mut replies = Vec::new();
    Client::new(Options::new(address)).pipeline(&requests, &mut replies).await.unwrap();
    for (number, reply) in replies.iter().enumerate() {
        assert!(reply.lines()[0].starts_with(format!("SET {number} x").as_bytes()));
    }
    assert_eq!(replies.len(), COUNT);
    echo.await.unwrap();
}

#[tokio::test]
async fn a_closed_connection_is_opened_again_and_a_read_repeated() {
    let (mut client, playing) = server(vec![
        vec![Expect("SET k v"), Say("OK\n")],
        vec![Expect("SET k w"), Say("OK\n"), Expect("GET k")],
        vec![Expect("GET k"), Say("OK w\n")],
    ])
    .await;
    client.set(b"k", b"v").await.unwrap();
    closed(&client).await;
    client.set(b"k", b"w").await.unwrap();
    assert_eq!(client.get(b"k").await.unwrap().unwrap(), "w");
    playing.await.unwrap();
}

#[tokio::test]
async fn a_write_under_which_the_connection_breaks_is_never_sent_twice() {
    let (mut client, playing) = server(vec![vec![Expect("SET k v")]]).await;
    let error = client.set(b"k", b"v").await.unwrap_err();
    assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
    assert!(error.to_string().contains("not known"));
    // One script, one connection: a second attempt would have failed to connect instead.
    playing.await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_and_its_late_reply_not_mistaken() {
    let (mut client, playing) = server(vec![
        vec![Expect("GET a"), Hold, Say("OK a\n")],
        vec![Expect("GET b"), Say("OK b\n")],
    ])
    .await;
    let error = client.get(b"a").await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    assert_eq!(client.get(b"b").await.unwrap().unwrap(), "b");
    playing.await.unwrap();
}

#[tokio::test]
async fn a_server_that_comes_late_is_waited_for() {
    let early = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = early.local_addr().unwrap();
    drop(early);
    let mut options = Options::new(address.to_string());
    let refused = Client::new(options.clone()).connect().await.unwrap_err();
    assert!(matches!(refused, ClientError::Connect { .. }), "{refused}");
    options.patience = Duration::from_secs(20);
    let waiting = tokio::spawn(async move { Client::new(options).get(b"k").await });
    for _ in 0..100 {
        tokio::task::yield_now().await; // the first attempts find nobody there
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    play(stream, vec![Expect("GET k"), Say("OK v\n")]).await;
    assert_eq!(waiting.await.unwrap().unwrap().unwrap(), "v");
}

#[tokio::test]
async fn what_the_protocol_does_not_know_is_an_error() {
    let (mut client, playing) =
        server(vec![vec![Expect("SET k v"), Say("OKAY\n")], vec![Expect("NODES"), Say("x\nOK\n")]])
            .await;
    let error = client.set(b"k", b"v").await.unwrap_err();
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error}");
    let error = client.nodes().await.unwrap_err();
    assert!(matches!(error, ClientError::Unexpected { .. }), "{error}");
    playing.await.unwrap();
}

#[tokio::test]
async fn a_reply_over_the_limit_is_refused() {
    let (mut client, playing) =
        server(vec![vec![Expect("GET k"), Say("OK aaaaaaaaaaaaaaaaaaaaaaaa"), Hold]]).await;
    client.options.max_reply_bytes = 16;
    let error = client.get(b"k").await.unwrap_err();
    assert!(matches!(error, ClientError::TooLong { limit: 16 }), "{error}");
    playing.await.unwrap();
}

#[test]
fn what_cannot_be_said_is_refused_before_it_is_sent() {
    assert_eq!(Request::get(b""), Err(RequestError::EmptyKey));
    assert_eq!(Request::get(b"a b"), Err(RequestError::KeyByte { at: 2 }));
    assert_eq!(Request::set(b"a\0", b""), Err(RequestError::KeyByte { at: 2 }));
    assert_eq!(Request::set(b"k", b"two\nlines"), Err(RequestError::ValueLineEnd { at: 4 }));
    assert_eq!(Request::set(b"k", b"end\r"), Err(RequestError::ValueLineEnd { at: 4 }));
    assert!(Request::set(b"k", b"a\rb").is_ok());
    assert!(Request::set("anahtar-\u{131}".as_bytes(), b"\xff\xfe").is_ok());
    assert_eq!(Request::raw(b"PING\nPING"), Err(RequestError::LineEnd));
}

#[test]
fn typed_lines_are_known_by_their_word() {
    assert!(Request::raw(b"get k").unwrap().only_reads());
    assert!(Request::raw(b"Nodes").unwrap().only_reads());
    assert!(!Request::raw(b"SET nodes v").unwrap().only_reads());
}

#[test]
fn an_error_is_read_with_and_without_its_parts() {
    let bare = reply(&["ERROR"]).refusal().unwrap();
    assert_eq!((bare.code.as_str(), bare.to_string().as_str()), ("", "ERROR"));
    let coded = reply(&["ERROR BUSY"]).refusal().unwrap();
    assert_eq!(coded.to_string(), "BUSY");
    assert_eq!(reply(&["ERRORS"]).refusal(), None);
    assert_eq!(reply(&["OK ERROR"]).refusal(), None);
}
