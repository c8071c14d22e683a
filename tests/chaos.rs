//! `hatokuse chaos`: a cluster of its own that is hurt and passes, histories judged again, and what
//! it refuses to do.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use common::{Cluster, Options};
use hatokuse::chaos::{self, Load};
use serde_json::Value;

/// What a run of the command came to.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(directory: &Path, arguments: &[&str]) -> Ran {
    let temporary = directory.join("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
    command.args(arguments).current_dir(directory).env("TMPDIR", temporary);
    command.env("HATOKUSE_STORAGE__SEGMENT_BYTES", "16MiB");
    let output = command.output().unwrap();
    let ran = Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    println!("{}{}", ran.stderr, ran.stdout);
    ran
}

#[test]
fn a_cluster_of_its_own_is_killed_and_passes_and_nothing_remains() {
    let directory = tempfile::tempdir().unwrap();
    let faults = "kill-node,kill-leader";
    let arguments = ["chaos", "--seconds", "8", "--every", "2", "--nodes", "3", "--tolerance", "2"];
    let more = ["--faults", faults, "--seed", "7", "-o", "json", "--history", "all.history"];
    let ran = run(directory.path(), &[&arguments[..], &more[..]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(report["seed"], 7);
    for count in ["lost", "stale", "undone", "not_read_back"] {
        assert_eq!(report[count], 0, "{count}");
    }
    let made = report["faults"].as_array().unwrap();
    assert!(!made.is_empty());
    assert!(made.iter().all(|made| faults.contains(made["fault"].as_str().unwrap())));
    assert!(ran.stderr.contains("seed 7"), "{}", ran.stderr);
    let left = fs::read_dir(directory.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "the data of a cluster that passed");

    let checked = run(directory.path(), &["chaos", "--check", "all.history", "-o", "json"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let checked: Value = serde_json::from_str(&checked.stdout).unwrap();
    assert_eq!(checked["operations"], report["operations"]);
}

#[test]
fn a_kept_history_is_judged_again_and_what_is_wrong_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let history = concat!(
        "{\"format\":\"hatokuse-history\",\"version\":1}\n",
        "{\"client\":1,\"key\":\"k\",\"kind\":\"set\",\"value\":\"a\",\"invoked\":1,",
        "\"returned\":2,\"outcome\":\"stored\"}\n",
        "{\"client\":2,\"key\":\"k\",\"kind\":\"get\",\"invoked\":3,\"returned\":4,",
        "\"outcome\":\"value\",\"read\":\"a\"}\n",
        "{\"operations\":2}\n",
    );
    let check = |text: String| {
        fs::write(directory.path().join("kept"), text).unwrap();
        run(directory.path(), &["chaos", "--check", "kept"])
    };
    let ran = check(history.to_owned());
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = "2 operations on 1 key: lost 0, stale 0, undone 0\n";
    assert_eq!(ran.stdout, expected);

    let gone = history.replace("\"value\",\"read\":\"a\"", "\"not_found\"");
    let ran = check(gone);
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stdout.starts_with("2 operations on 1 key: lost 1, stale 0, undone 0\n"));
    assert!(ran.stdout.contains("lost write: key k: client 1 set `a`"), "{}", ran.stdout);

    let ran = check(history.replace("\"get\"", "\"look\""));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains("cannot judge kept: line 3: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("expected one of `get`, `set`"), "{}", ran.stderr);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["--production"], "name its leader with --addr"),
        (&["--fault", "true"], "name its leader with --addr"),
        (&["--addr", "127.0.0.1:1", "--faults", "kill-node"], "--fault 'COMMAND'"),
        (&["--faults", "melt"], "[possible values: kill-node, kill-leader"),
        (&["--tolerance", "9"], "9 is not in 1..=7"),
        (&["--seconds", "0"], "invalid value '0'"),
        (&["--check", "kept", "--seed", "1"], "cannot be used with"),
    ];
    for (arguments, expected) in cases {
        let ran = run(directory.path(), &[&["chaos"], arguments].concat());
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
    }
}

#[test]
fn a_cluster_that_holds_keys_is_left_alone_unless_that_is_wished() {
    let cluster = Cluster::start(3, 2);
    let address = cluster.client.to_string();
    let directory = cluster.directory();
    let fault = format!("touch '{}'", directory.join("made").display());
    let arguments = ["chaos", "--addr", &address, "--seconds", "3", "--every", "1"];
    let empty = run(directory, &[&arguments[..], &["--fault", &fault]].concat());
    assert_eq!(empty.code, 0, "{empty:?}");
    assert!(empty.stdout.ends_with("passed: lost 0, stale 0, undone 0\n"), "{}", empty.stdout);
    assert!(directory.join("made").exists());
    let at_once = run(directory, &arguments);
    assert_eq!(at_once.code, 0, "{at_once:?}");
    cluster.await_files("no key of the load", |files| files.iter().sum::<u64>() == 0);

    assert_eq!(cluster.connect().ask("SET mine v"), "OK");
    cluster.await_files("a key", |files| files.iter().sum::<u64>() == 2);
    let refused = run(directory, &arguments);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.stderr.contains("say --production"), "{}", refused.stderr);
    let wished = run(directory, &[&arguments[..], &["--production"]].concat());
    assert_eq!(wished.code, 0, "{wished:?}");
    assert!(wished.stderr.contains("make faults yourself"), "{}", wished.stderr);
    assert_eq!(cluster.connect().ask("GET mine"), "OK v");
    cluster.await_files("only what was there", |files| files.iter().sum::<u64>() == 2);
}

/// The load as a part of a test: the cluster loses all its processes and nothing else.
#[test]
fn a_checked_load_outlives_a_cluster_that_is_killed() {
    let mut cluster = Cluster::start_with(Options::new(3, 3));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut options = chaos::Options::new(cluster.client.to_string());
    options.clients = 6;
    options.keys = 6;
    options.reply_within = Duration::from_secs(6);
    let load = runtime.block_on(async { Load::start(options).unwrap() });
    let await_writes = |more: u64| {
        let before = load.counts().writes;
        common::eventually("acknowledged writes", || {
            let writes = load.counts().writes;
            if writes >= before + more { Ok(()) } else { Err(writes) }
        });
    };
    await_writes(300);
    cluster.kill_all();
    cluster.start_all();
    await_writes(300);
    let recorded = runtime.block_on(load.stop());
    let verdict = recorded.judge();
    println!("{verdict}");
    assert!(verdict.passed(), "{verdict}");
    assert!(recorded.counts.unconnected > 0, "{:?}", recorded.counts);
}
