//! One value of each kind: what is allowed, and what is said when something else is written.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Node;
use super::settings::{ClientAuthentication, IoMode, Listener, LogFormat, ReplyMode, Reserve};
use super::suggestion;

type Parsed<T> = Result<T, String>;

/// The one word or number that must stand there.
fn text(node: &Node) -> Parsed<&str> {
    match node {
        Node::Text(text) => Ok(text.trim()),
        Node::Empty => Err("there is no value; write one, or leave the key out".into()),
        Node::List(_) | Node::Map(_) => Err("one value must stand here, not several".into()),
    }
}

/// What is said of a value that is not what it should be. Control characters are escaped, so that
/// an error cannot redraw the terminal it is shown on.
fn wrong(text: &str, what: &str, allowed: &str) -> String {
    format!("'{}' is not {what}; write {allowed}", text.escape_debug())
}

pub(super) fn port(node: &Node) -> Parsed<u16> {
    let text = text(node)?;
    let allowed = "a number from 0 to 65535 (0 picks a free one)";
    text.parse().map_err(|_| wrong(text, "a port", allowed))
}

pub(super) fn address(node: &Node) -> Parsed<IpAddr> {
    let text = text(node)?;
    let allowed = "127.0.0.1 for this machine only, 0.0.0.0 for all its networks, or one address";
    text.parse().map_err(|_| wrong(text, "an address to listen on", allowed))
}

/// `host:port`. Names are looked up later, and again at each attempt.
pub(super) fn host_and_port(node: &Node) -> Parsed<String> {
    let text = text(node)?;
    let allowed = "host:port, like leader:50051 or [::1]:50051";
    let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong(text, "an address", allowed))?;
    let bare =
        !host.is_empty() && !host.contains([':', '/', '@']) && !host.contains(char::is_whitespace);
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = bracketed.map_or(bare, |host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    match port {
        Some(_) if good => Ok(text.to_owned()),
        _ => Err(wrong(text, "an address", allowed)),
    }
}

pub(super) fn host(node: &Node) -> Parsed<String> {
    let text = text(node)?;
    let strange = |letter: char| letter.is_whitespace() || letter == '/' || letter == '@';
    if text.is_empty() || text.contains(strange) {
        return Err(wrong(text, "a host", "a name or an address that others can reach"));
    }
    Ok(text.to_owned())
}

pub(super) fn path(node: &Node) -> Parsed<PathBuf> {
    let text = text(node)?;
    if text.is_empty() || text.contains('\0') {
        return Err(wrong(text, "a directory", "a path"));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn count(node: &Node, allowed: RangeInclusive<usize>) -> Parsed<usize> {
    let text = text(node)?;
    text.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
        let range = format!("a number from {} to {}", allowed.start(), allowed.end());
        wrong(text, "such a number", &range)
    })
}

/// A number, or `auto`, which leaves the choice to the program.
pub(super) fn auto_or_count(node: &Node, allowed: RangeInclusive<usize>) -> Parsed<Option<usize>> {
    if text(node)? == "auto" {
        return Ok(None);
    }
    let number = count(node, allowed);
    number.map(Some).map_err(|problem| format!("{problem}, or auto"))
}

pub(super) fn duration(node: &Node, allowed: RangeInclusive<Duration>) -> Parsed<Duration> {
    let text = text(node)?;
    let parsed = humantime::parse_duration(text).ok();
    parsed.filter(|duration| allowed.contains(duration)).ok_or_else(|| {
        let [least, most] = [*allowed.start(), *allowed.end()].map(humantime::format_duration);
        wrong(text, "such a time", &format!("one from {least} to {most}, with its unit: 250ms, 1s"))
    })
}

fn bytes(text: &str) -> Option<u64> {
    text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
}

pub(super) fn size(node: &Node, allowed: RangeInclusive<u64>) -> Parsed<u64> {
    let text = text(node)?;
    bytes(text).filter(|bytes| allowed.contains(bytes)).ok_or_else(|| {
        let [least, most] = [*allowed.start(), *allowed.end()].map(show_size);
        wrong(text, "such a size", &format!("one from {least} to {most}, with its unit: KiB, MiB"))
    })
}

/// The shortest way to write a size exactly.
pub(super) fn show_size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let exact = units.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    exact.map_or_else(|| format!("{bytes}B"), |(unit, name)| format!("{}{name}", bytes / unit))
}

pub(super) fn reserve(node: &Node) -> Parsed<Reserve> {
    if text(node)? == "auto" {
        return Ok(Reserve::Auto);
    }
    let bytes = size(node, (1 << 20)..=(1 << 50));
    bytes.map(Reserve::Bytes).map_err(|problem| format!("{problem}, or auto"))
}

/// Bytes per second; nothing is no limit.
pub(super) fn rate(node: &Node) -> Parsed<Option<NonZeroU64>> {
    if text(node)? == "0" {
        return Ok(None);
    }
    let bytes = size(node, (1 << 20)..=(1 << 40));
    bytes.map(NonZeroU64::new).map_err(|problem| format!("{problem}, or 0 for no limit"))
}

/// One of these words.
fn word<T: Copy>(node: &Node, words: &[(&str, T)]) -> Parsed<T> {
    let text = text(node)?;
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        wrong(text, "known here", &all.join(" or "))
    })
}

pub(super) fn io_mode(node: &Node) -> Parsed<IoMode> {
    word(node, &[("unbuffered", IoMode::Unbuffered), ("buffered", IoMode::Buffered)])
}

pub(super) fn log_format(node: &Node) -> Parsed<LogFormat> {
    word(node, &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub(super) fn log_filter(node: &Node) -> Parsed<String> {
    let text = text(node)?;
    if text.is_empty() {
        return Err(wrong(text, "a log filter", "for example info, or hatokuse=debug,warn"));
    }
    Ok(text.to_owned())
}

pub(super) fn client_authentication(node: &Node) -> Parsed<ClientAuthentication> {
    if text(node)? == "token" {
        return Err("token is not supported yet; write none".into());
    }
    word(node, &[("none", ClientAuthentication::None)])
}

pub(super) fn tolerance(node: &Node) -> Parsed<usize> {
    super::tolerance::number(text(node)?)
}

/// How many ports for clients there may be.
const MAX_LISTENERS: usize = 16;

pub(super) fn listeners(node: &Node) -> Parsed<Vec<Listener>> {
    let Node::List(items) = node else {
        return Err("a list must stand here, like [{port: 6000, mode: simple}]".into());
    };
    if !(1..=MAX_LISTENERS).contains(&items.len()) {
        return Err(format!("write 1 to {MAX_LISTENERS} listeners"));
    }
    let listeners = items.iter().map(|item| listener(&item.value)).collect::<Parsed<Vec<_>>>()?;
    let mut ports: Vec<u16> = listeners.iter().map(|one| one.port).filter(|p| *p > 0).collect();
    ports.sort_unstable();
    let twice = ports.windows(2).find_map(|pair| match pair {
        [one, other] if one == other => Some(*one),
        _ => None,
    });
    match twice {
        Some(port) => Err(format!("two listeners have port {port}; give each its own")),
        None => Ok(listeners),
    }
}

const LISTENER_KEYS: [&str; 3] = ["port", "mode", "tls"];

fn listener(node: &Node) -> Parsed<Listener> {
    let Node::Map(entries) = node else {
        return Err("a listener is written {port: 6000, mode: simple}".into());
    };
    let mut port_of = None;
    let mut mode = ReplyMode::Simple;
    for (key, value) in entries {
        match key.value.as_str() {
            "port" => port_of = Some(port(&value.value).map_err(|wrong| format!("port: {wrong}"))?),
            "mode" => mode = reply_mode(&value.value).map_err(|wrong| format!("mode: {wrong}"))?,
            "tls" => no_tls(&value.value).map_err(|wrong| format!("tls: {wrong}"))?,
            other => return Err(suggestion::unknown(other, "key of a listener", &LISTENER_KEYS)),
        }
    }
    let port = port_of.ok_or("a listener needs a port, like {port: 6000, mode: simple}")?;
    Ok(Listener { port, mode })
}

fn reply_mode(node: &Node) -> Parsed<ReplyMode> {
    let later = text(node).ok().filter(|text| ["register", "plain", "detailed"].contains(text));
    if let Some(later) = later {
        return Err(format!("{later} is not supported yet; write simple"));
    }
    word(node, &[("simple", ReplyMode::Simple)])
}

fn no_tls(node: &Node) -> Parsed<()> {
    if text(node)? == "true" {
        return Err("TLS is not supported yet; write false".into());
    }
    word(node, &[("false", ())])
}
