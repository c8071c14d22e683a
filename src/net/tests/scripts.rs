//! Plays the conversations of `tests/scripts/protocol` over a real connection.
//!
//! `> text` is sent with LF, `>> text` with CRLF, `>| text` without a line end, `<` is the next line
//! expected (with LF or CRLF as the last request), `< ...` at its end allows any rest, `<EOF` expects
//! the end, `>EOF` shuts down the sending side, `#` is a comment. A blank line begins a new
//! connection. `\xNN`, `\r`, `\0`, `\t`, `\s` (space) stand for bytes; `\*N{c}` for N times c.

use std::path::Path;

use super::*;

/// The bytes a line of a script stands for.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let (first, after) = escaped.split_at(1);
        rest = match first {
            "x" => {
                bytes.push(u8::from_str_radix(&after[..2], 16).unwrap());
                &after[2..]
            }
            "*" => {
                let (count, after) = after.split_once('{').unwrap();
                let (repeated, after) = after.split_once('}').unwrap();
                bytes.extend(repeated.repeat(count.parse().unwrap()).bytes());
                after
            }
            simple => {
                let place = "r0ts\\".find(simple).unwrap();
                bytes.push(b"\r\0\t \\"[place]);
                after
            }
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

async fn play(script: &str, name: &str, server: &Server) {
    let mut client = server.connect().await;
    let mut end: &[u8] = b"\n";
    for (number, line) in script.lines().enumerate() {
        let place = format!("{name}:{}", number + 1);
        let (mark, text) = line.split_once(' ').unwrap_or((line, ""));
        match mark {
            "" => client = server.connect().await,
            "#" => {}
            ">" | ">>" => {
                end = if mark == ">" { b"\n" } else { b"\r\n" };
                client.send([&unescape(text), end].concat()).await;
            }
            ">|" => client.send(unescape(text)).await,
            ">EOF" => client.0.shutdown().await.unwrap(),
            "<EOF" => assert_eq!(client.rest().await, "", "{place}"),
            "<" => {
                let got = client.line().await;
                let wanted = String::from_utf8([&unescape(text), end].concat()).unwrap();
                match text.strip_suffix("...") {
                    Some(begin) => assert!(got.starts_with(begin), "{place}: {got}"),
                    None => assert_eq!(got, wanted, "{place}"),
                }
            }
            other => panic!("{place}: what is '{other}'?"),
        }
    }
}

#[tokio::test]
async fn every_script_of_the_protocol_goes_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/protocol");
    let mut played = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        let server = Server::start(Answers::AtOnce, options()).await;
        play(&script, path.file_name().unwrap().to_str().unwrap(), &server).await;
        played += 1;
    }
    assert!(played >= 4, "only {played} scripts");
}
