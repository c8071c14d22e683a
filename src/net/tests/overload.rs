//! Clients that hold connections and memory without need.

use super::*;

const SHORT: Duration = Duration::from_millis(20);
const DROPPED: &str =
    "ERROR BUSY the rest of the line did not come and it was dropped; send it all at once\n";

async fn start(timeouts: Timeouts) -> Server {
    Server::start(Answers::AtOnce, Options { timeouts, ..options() }).await
}

#[tokio::test]
async fn a_line_without_end_is_told_and_its_connection_closed() {
    let server = start(Timeouts { read: SHORT, ..options().timeouts }).await;
    let mut client = server.connect().await;
    client.send("PING\nSET k hal").await;
    assert_eq!(client.rest().await, format!("PONG\n{DROPPED}"));
    assert_eq!(server.metrics.timed_out_connections.get(), 1);
    until(|| server.budget.used() == 0).await;
}

#[tokio::test]
async fn a_line_that_was_refused_has_to_end_as_well() {
    let server = start(Timeouts { read: SHORT, ..options().timeouts }).await;
    let mut client = server.connect().await;
    client.send("x".repeat(2000)).await;
    let told = client.rest().await;
    assert!(told.starts_with("ERROR UNKNOWN_COMMAND ") && told.lines().count() == 1, "{told}");
}

#[tokio::test]
async fn who_is_idle_stays_while_others_are_given_up() {
    let server = start(Timeouts { read: SHORT, write: SHORT, stall: SHORT }).await;
    let (mut new, mut idle) = (server.connect().await, server.connect().await);
    idle.send("SET k v\n").await;
    idle.expect("OK\n").await;
    for _ in 0..5 {
        let mut slow = server.connect().await;
        slow.send("GET").await;
        assert_eq!(slow.rest().await, DROPPED);
    }
    for client in [&mut new, &mut idle] {
        client.send("GET k\n").await;
        client.expect("OK v\n").await;
    }
}

#[tokio::test]
async fn a_request_that_takes_long_to_answer_is_not_blamed_on_the_client() {
    let timeouts = Timeouts { read: SHORT, write: SHORT, stall: SHORT };
    let server = Server::start(Answers::Held, Options { timeouts, ..options() }).await;
    let mut client = server.connect().await;
    client.send("GET k\n").await;
    until(|| server.backend.held() == 1).await;
    let mut slow = server.connect().await;
    slow.send("GET").await;
    assert_eq!(slow.rest().await, DROPPED);
    server.backend.release();
    client.expect("ERROR NOT_FOUND ").await;
}

#[tokio::test]
async fn who_reads_nothing_is_ended_and_what_it_held_given_back() {
    let server = start(Timeouts { write: SHORT, ..options().timeouts }).await;
    let mut client = server.connect().await;
    client.send(format!("SET k {}\n", "v".repeat(1 << 20))).await;
    client.expect("OK\n").await;
    client.send("GET k\n".repeat(100)).await;
    until(|| server.metrics.timed_out_connections.get() == 1).await;
    until(|| server.budget.used() == 0 && server.metrics.connections.get() == 0).await;
}

#[tokio::test]
async fn many_that_do_not_read_hold_no_more_than_the_budget_and_make_room_for_others() {
    let server = start(Timeouts::default()).await;
    let mut good = server.connect().await;
    let value = "v".repeat(4 << 20);
    good.send(format!("SET k {value}\nSET small s\n")).await;
    good.expect("OK\nOK\n").await;
    let mut hogs = Vec::new();
    for _ in 0..40 {
        let mut hog = server.connect().await;
        hog.send("GET k\n".repeat(50)).await;
        hogs.push(hog);
    }
    let most = server.budget.limit() + 41 * 64 * 1024;
    until(|| server.metrics.timed_out_connections.get() > 0).await;
    let answered = async {
        loop {
            assert!(server.budget.used() <= most, "{} are held", server.budget.used());
            good.send("GET k\n").await;
            let line = good.line_of_bytes().await;
            if line.starts_with(b"OK v") {
                return;
            }
            assert!(line.starts_with(b"ERROR BUSY "), "{}", show(&line));
        }
    };
    within(answered).await;
    drop(hogs);
    until(|| server.budget.used() == 0).await;
}
