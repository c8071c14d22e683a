//! Loads on a server that is honest, or is not.

use std::time::Duration;

use super::server::{Lie, Server};
use crate::chaos::{Load, Options, Recorded, Verdict, Wrong, file, judge};

/// So many operations are waited for.
const OPERATIONS: u64 = 6_000;

fn options(server: &Server) -> Options {
    let mut options = Options::new(server.address.to_string());
    options.clients = 7;
    options.keys = 6;
    options.pace = Duration::ZERO;
    options.operations_per_key = 150;
    options
}

async fn run(options: Options) -> Recorded {
    let load = Load::start(options).unwrap();
    let enough = async {
        while load.counts().operations < OPERATIONS {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), enough).await.expect("a load that goes on");
    load.stop().await
}

async fn verdict(lie: Lie) -> Verdict {
    let server = Server::start(lie).await;
    run(options(&server)).await.judge()
}

#[tokio::test]
async fn an_honest_server_passes_and_keys_are_retired() {
    let server = Server::start(Lie::None).await;
    let recorded = run(options(&server)).await;
    let verdict = recorded.judge();
    assert!(verdict.passed(), "{verdict}");
    assert!(verdict.operations >= OPERATIONS);
    assert!(verdict.keys > 30, "{verdict}");
    assert_eq!(recorded.history.len() as u64, verdict.operations);
    assert_eq!(recorded.counts.writes + recorded.counts.reads, verdict.operations);
    // Each key is read when it is closed, and again at the end.
    let last = recorded.history.iter().map(|operation| operation.invoked).max().unwrap();
    assert!(recorded.stalls.begun < last);
}

#[tokio::test]
async fn outcomes_that_are_not_known_are_no_violation() {
    let server = Server::start(Lie::Breaks).await;
    let recorded = run(options(&server)).await;
    let verdict = recorded.judge();
    assert!(verdict.passed(), "{verdict}");
    assert!(recorded.counts.open > 10, "{:?}", recorded.counts);
}

#[tokio::test]
async fn a_server_that_forgets_writes_is_found_out() {
    let verdict = verdict(Lie::Forgets).await;
    assert!(verdict.lost() > 0, "{verdict}");
    assert!(!verdict.passed());
}

#[tokio::test]
async fn a_server_that_keeps_what_was_deleted_is_found_out() {
    let verdict = verdict(Lie::Keeps).await;
    assert!(verdict.undone() > 0, "{verdict}");
}

#[tokio::test]
async fn a_server_that_stores_what_it_refused_is_found_out() {
    let verdict = verdict(Lie::RefusesAndStores).await;
    assert!(verdict.count(Wrong::Phantom) > 0, "{verdict}");
}

#[tokio::test]
async fn a_server_that_reads_old_values_is_found_out() {
    let verdict = verdict(Lie::ReadsOld).await;
    assert!(verdict.stale() > 0, "{verdict}");
}

#[tokio::test]
async fn answers_without_sense_do_not_pass() {
    let verdict = verdict(Lie::Babbles).await;
    assert!(!verdict.complaints.is_empty(), "{verdict}");
    assert!(!verdict.passed());
}

/// Keys that were retired long before are read back at the end.
#[tokio::test]
async fn a_server_that_loses_what_is_no_longer_asked_for_is_found_out() {
    let verdict = verdict(Lie::LosesAll(OPERATIONS - 200)).await;
    assert!(verdict.lost() > 20, "{verdict}");
}

/// What was let go leaves enough behind to see that it changes no more.
#[tokio::test]
async fn keys_that_were_let_go_are_still_judged() {
    let few = |server: &Server| Options { held_operations: 500, ..options(server) };
    for lie in [Lie::None, Lie::Breaks] {
        let server = Server::start(lie).await;
        let recorded = run(few(&server)).await;
        let verdict = recorded.judge();
        assert!(verdict.passed(), "{lie:?}: {verdict}");
        let held = recorded.history.len() as u64;
        assert!(held < verdict.operations / 2, "{held} of {}", verdict.operations);
    }
    let server = Server::start(Lie::LosesAll(OPERATIONS - 200)).await;
    let verdict = run(few(&server)).await.judge();
    assert!(verdict.lost() > 20, "{verdict}");
    let server = Server::start(Lie::Keeps).await;
    let verdict = run(few(&server)).await.judge();
    assert!(verdict.undone() > 0, "{verdict}");
}

#[tokio::test]
async fn a_load_ends_by_itself_and_leaves_no_key_and_its_history() {
    let server = Server::start(Lie::None).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let mut options = options(&server);
    options.duration = Some(Duration::from_millis(200));
    options.history = Some(path.clone());
    options.delete_keys = true;
    let load = Load::start(options).unwrap();
    load.finished().await;
    let recorded = load.stop().await;
    assert!(recorded.file_error.is_none());
    assert_eq!(recorded.undeleted, 0);
    assert!(server.store.lock().held.is_empty());
    let again = judge(&file::read(&path).unwrap());
    assert_eq!(again, recorded.judge());
    assert!(again.passed() && again.operations > 0, "{again}");
}

/// Nothing can be read back from a server that is gone: that shows nothing.
#[tokio::test]
async fn a_server_that_is_gone_at_the_end_does_not_pass() {
    let server = Server::start(Lie::None).await;
    let mut options = options(&server);
    options.settle_within = Duration::from_millis(10);
    options.reply_within = Duration::from_millis(10);
    let load = Load::start(options).unwrap();
    while load.counts().operations < 10 {
        tokio::task::yield_now().await;
    }
    drop(server);
    let verdict = load.stop().await.judge();
    assert!(verdict.unread > 0 && !verdict.passed(), "{verdict}");
}
