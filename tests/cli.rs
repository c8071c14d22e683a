//! The command line as scripts see it: what goes to standard output, what to standard error, and
//! the exit codes. The server behind it says what it is told to.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on fails")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};

use assert_cmd::Command;

/// Answers each line of one connection: the request that is expected, the bytes that are said.
fn server(script: &'static [(&str, &str)]) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let playing = thread::spawn(move || {
        let (mut writing, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(writing.try_clone().unwrap());
        for (request, reply) in script {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert_eq!(line, format!("{request}\n"));
            writing.write_all(reply.as_bytes()).unwrap();
        }
    });
    (address, playing)
}

/// What a command wrote and how it ended.
#[derive(Debug, PartialEq)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn run(arguments: &[&str], input: &str) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
    let output = command.args(arguments).write_stdin(input).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs one command against a server that plays the script.
fn ask(script: &'static [(&str, &str)], arguments: &[&str], input: &str) -> Ran {
    let (address, playing) = server(script);
    let address = address.to_string();
    let ran = run(&[arguments, &["--addr", &address]].concat(), input);
    playing.join().unwrap();
    ran
}

fn printed(stdout: &str) -> Ran {
    Ran { code: 0, stdout: stdout.to_owned(), stderr: String::new() }
}

#[test]
fn get_prints_the_value_and_nothing_else() {
    let script = &[("GET k", "OK hello  world\n")];
    assert_eq!(ask(script, &["get", "k"], ""), printed("hello  world\n"));
    let json = ask(script, &["get", "k", "-o", "json"], "");
    assert_eq!(json, printed("{\"key\":\"k\",\"value\":\"hello  world\"}\n"));
}

#[test]
fn a_missing_key_is_a_failure_and_prints_nothing() {
    let ran = ask(&[("GET nope", "ERROR NOT_FOUND no such key\n")], &["get", "nope"], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("NOT_FOUND"), "{}", ran.stderr);
}

#[test]
fn set_takes_the_value_from_the_command_line_or_from_standard_input() {
    assert_eq!(ask(&[("SET k v w", "OK\n")], &["set", "k", "v w"], ""), printed("OK\n"));
    assert_eq!(ask(&[("SET k piped", "OK\n")], &["set", "k"], "piped\r\n"), printed("OK\n"));
    assert_eq!(ask(&[("SET k ", "OK\n")], &["set", "k", ""], ""), printed("OK\n"));
}

#[test]
fn a_value_with_a_line_end_is_refused_before_it_is_sent() {
    let ran = run(&["set", "k", "--addr", "127.0.0.1:1"], "two\nlines\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("line end") && ran.stderr.contains("byte 4"), "{}", ran.stderr);
}

#[test]
fn done_but_degraded_is_exit_code_3() {
    let script = &[("SET k v", "OK DEGRADED 3/4\n")];
    let ran = ask(script, &["set", "k", "v"], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (3, "OK DEGRADED 3/4\n"));
    assert!(ran.stderr.contains("3 copies instead of 4"), "{}", ran.stderr);
    let ran = ask(script, &["set", "k", "v", "-o", "json"], "");
    let expected = "{\"result\":\"degraded\",\"copies\":3,\"tolerance\":4}\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (3, expected));
}

#[test]
fn a_refusal_is_a_failure_with_its_reason() {
    let ran = ask(&[("DEL k", "ERROR BUSY try again\n")], &["del", "k"], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "error: BUSY try again\n");
}

#[test]
fn nobody_there_is_a_failure_with_a_hint() {
    let ran = run(&["nodes", "--addr", "127.0.0.1:1"], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.starts_with("error: cannot connect to 127.0.0.1:1: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("hatokuse dev"), "{}", ran.stderr);
}

#[test]
fn lists_are_tables_or_documents() {
    let nodes = &[("NODES", "Node: a1 -> 127.0.0.1:50052\nNode: b -> 127.0.0.1:9\nOK\n")];
    let table = "ID  ADDRESS\na1  127.0.0.1:50052\nb   127.0.0.1:9\n";
    assert_eq!(ask(nodes, &["nodes"], ""), printed(table));
    let json = r#"[{"id":"a1","address":"127.0.0.1:50052"},{"id":"b","address":"127.0.0.1:9"}]"#;
    assert_eq!(ask(nodes, &["nodes", "-o", "json"], ""), printed(&format!("{json}\n")));
    let files = &[("FILES", "127.0.0.1:50052: 800\nOK\n")];
    let json = "[{\"address\":\"127.0.0.1:50052\",\"records\":800}]\n";
    assert_eq!(ask(files, &["files", "-o", "json"], ""), printed(json));
    let lines = &[("WHERE k", "partition 751\nversion 1.2\nOK\n")];
    assert_eq!(ask(lines, &["where", "k"], ""), printed("partition 751\nversion 1.2\n"));
}

#[test]
fn a_script_gets_every_reply_as_it_came_and_fails_if_one_is_an_error() {
    let script = &[
        ("SET k hello world", "OK\n"),
        ("GET k", "OK hello world\n"),
        ("FILES", "127.0.0.1:50052: 1\nOK\n"),
        ("QUIT", "OK\n"),
    ];
    let ran = ask(script, &["client"], "SET k hello world\r\n\nGET k\nFILES\nQUIT\nGET k\n");
    assert_eq!(ran, printed("OK\nOK hello world\n127.0.0.1:50052: 1\nOK\nOK\n"));
    let script = &[("GET nope", "ERROR NOT_FOUND\n"), ("PING", "PONG\n")];
    let ran = ask(script, &["client"], "GET nope\nPING");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "ERROR NOT_FOUND\nPONG\n"));
}

#[test]
fn health_follows_the_answer() {
    let ready = &[("GET /livez HTTP/1.0\r", "HTTP/1.1 200 OK\r\n\r\nok")];
    let (address, playing) = server(ready);
    assert_eq!(run(&["health", "--admin-addr", &address.to_string()], ""), printed("healthy\n"));
    playing.join().unwrap();
    let unready =
        &[("GET /healthz HTTP/1.0\r", "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[]}")];
    let (address, playing) = server(unready);
    let ran = run(&["health", "node", "--admin-addr", &address.to_string()], "");
    assert_eq!((ran.code, ran.stdout.as_str()), (1, "not healthy\n"));
    assert!(ran.stderr.contains("503") && ran.stderr.contains("reasons"), "{}", ran.stderr);
    playing.join().unwrap();
}

const ID: &str = "0197c5f2-7a30-7e10-b7e5-5d0d1f6a2b3c";

/// Answers each connection with what is said, and returns the requests.
fn admin(answers: &'static [(u16, &str)]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let playing = thread::spawn(move || {
        let play = |(status, body): &(u16, &str)| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            lines.read_line(&mut request).unwrap();
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            write!(stream, "HTTP/1.0 {status} -\r\n\r\n{body}").unwrap();
            request.trim_end().to_owned()
        };
        answers.iter().map(play).collect()
    });
    (address, playing)
}

#[test]
fn operators_commands_go_to_the_admin_port_and_say_what_to_do() {
    const DRAINING: &str = r#"{"id":"a1","address":"127.0.0.1:50052","state":"live","partitions":3,"records":12,"heard_seconds":0.1,"disk_free_bytes":2048,"disk_total_bytes":4096,"drain":{"state":"draining","partitions_left":3,"bytes_left":3145728,"seconds_left":7}}"#;
    const DRAINED: &str = r#"{"id":"a1","address":"127.0.0.1:50052","state":"live","partitions":0,"records":0,"heard_seconds":0.1,"disk_free_bytes":2048,"disk_total_bytes":4096,"drain":{"state":"drained","partitions_left":0,"bytes_left":0,"seconds_left":0}}"#;
    const LIST: &str = r#"[{"id":"a1","address":"127.0.0.1:50052","state":"live","partitions":3,"records":12,"heard_seconds":0.1,"disk_free_bytes":2048,"disk_total_bytes":4096,"drain":{"state":"draining","partitions_left":3,"bytes_left":3145728,"seconds_left":7}}]"#;
    const NO: &str = r#"{"status":409,"code":"too_few_nodes","title":"Conflict","detail":"3 nodes would stay","hint":"start another node first"}"#;

    let (address, playing) = admin(&[(200, LIST)]);
    let ran = run(&["nodes", "--admin-addr", &address], "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("live, draining") && ran.stdout.contains("PARTITIONS"), "{ran:?}");
    assert_eq!(playing.join().unwrap(), ["GET /api/v1/nodes HTTP/1.0"]);

    let (address, playing) = admin(&[(200, DRAINING), (200, DRAINING), (200, DRAINED)]);
    let ran = run(&["node", "drain", ID, "--wait", "--admin-addr", &address], "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.ends_with("it may be stopped\n"), "{ran:?}");
    assert!(ran.stderr.contains("3 partitions left, about 3.0 MiB, 7s left"), "{ran:?}");
    let requests = playing.join().unwrap();
    assert_eq!(requests[0], format!("POST /api/v1/nodes/{ID}/drain HTTP/1.0"));
    assert_eq!(requests[2], format!("GET /api/v1/nodes/{ID} HTTP/1.0"));

    let (address, playing) = admin(&[(409, NO)]);
    let ran = run(&["node", "drain", ID, "--admin-addr", &address], "");
    let said = "error: 3 nodes would stay\nhint: start another node first\n";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (1, "", said));
    playing.join().unwrap();

    let ran = run(&["node", "drain", "node-3"], "");
    assert!(ran.code == 2 && ran.stderr.contains("is not a UUID"), "{ran:?}");
    let ran = run(&["node", "undrain", ID, "--admin-addr", "127.0.0.1:1"], "");
    assert!(ran.code == 1 && ran.stderr.contains("--admin-addr"), "{ran:?}");
}

#[test]
fn wrong_usage_is_exit_code_2_and_help_has_examples() {
    for wrong in [&["get"][..], &["no-such-command"], &["get", "k", "--timeout", "soon"]] {
        let ran = run(wrong, "");
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{}", ran.stderr);
    }
    for command in [
        "",
        "client",
        "get",
        "set",
        "del",
        "nodes",
        "files",
        "status",
        "where",
        "health",
        "node",
        "node drain",
        "node undrain",
        "node decommission",
    ] {
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let help = run(&arguments, "");
        assert!(help.code == 0 && help.stdout.contains("Example"), "{command}: {}", help.stdout);
    }
}

#[test]
fn every_shell_gets_its_completion() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&["completion", shell], "");
        assert!(ran.code == 0 && ran.stdout.contains("hatokuse"), "{shell}: {}", ran.stderr);
    }
}
