//! Too many clients, and clients that hold what they do not need: memory, file descriptors and
//! service meanwhile and afterwards. Latency is printed, never asserted.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Cluster, LineClient, Options, eventually};
use hatokuse::chaos::{self, Load};
use hatokuse::runtime::files;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpSocket;
use tokio::runtime::Runtime;

const MIB: usize = 1 << 20;
/// The defaults of `limits.max_connections` and `leader.cache_bytes`.
const MAX_CONNECTIONS: usize = 10_000;
const CACHE_BYTES: usize = 64 * MIB;
/// What else the leader may take under load: threads, batches to nodes. Where pieces of all sizes come
/// and go, the allocator may hold as much again as is in use.
const SLACK_BYTES: usize = 160 * MIB;

/// A line of `/proc/PID/status`, in bytes.
fn memory(pid: u32, name: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib: usize = line.unwrap().trim().strip_suffix(" kB").unwrap().parse().unwrap();
    kib << 10
}

fn resident(pid: u32) -> usize {
    memory(pid, "VmRSS")
}

/// The most that was ever resident.
fn peak(pid: u32) -> usize {
    memory(pid, "VmHWM")
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Waits until the leader has no more files open than before, but for a few of its own.
fn await_open_files(pid: u32, before: usize) {
    eventually("connections to be closed", || {
        let now = open_files(pid);
        if now <= before + 8 { Ok(()) } else { Err(now) }
    });
}

/// The value of one of the leader's metrics.
fn metric(cluster: &Cluster, name: &str) -> usize {
    let mut admin = TcpStream::connect(cluster.admin).unwrap();
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    admin.read_to_string(&mut page).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).trim().parse().unwrap()
}

/// A client of one thread that behaves: it asks, reads the answer, and asks again.
struct Good {
    served: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    running: JoinHandle<Vec<Duration>>,
}

impl Good {
    /// What it is told must be right, or `ERROR BUSY`.
    #[allow(clippy::disallowed_methods, reason = "times are reported, never asserted")]
    fn start(cluster: &Cluster) -> Self {
        let (served, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, ends, mut client) = (Arc::clone(&served), Arc::clone(&stop), cluster.connect());
        let running = thread::spawn(move || {
            let (mut took, mut stored, mut number) = (Vec::new(), None, 0);
            while !ends.load(Ordering::SeqCst) {
                number += 1;
                let begun = Instant::now();
                let set = client.ask(&format!("SET good {number}"));
                assert!(set == "OK" || set.starts_with("ERROR BUSY "), "{set}");
                if set == "OK" {
                    stored = Some(number);
                }
                let get = client.ask("GET good");
                let expected = stored.map(|number| format!("OK {number}"));
                let right = expected == Some(get.clone()) || get.starts_with("ERROR BUSY ");
                assert!(right || stored.is_none(), "{get} after {stored:?}");
                took.push(begun.elapsed());
                if set == "OK" && get.starts_with("OK") {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
            took
        });
        Self { served, stop, running }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// Waits until it was served so many times more.
    fn await_served(&self, more: usize) {
        let before = self.served();
        eventually("others to be served", || {
            assert!(!self.running.is_finished(), "a client was told what is wrong");
            let served = self.served() - before;
            if served >= more { Ok(()) } else { Err(served) }
        });
    }

    /// Half of its rounds took at most this long, and 99 of 100.
    fn finish(self, what: &str) -> (Duration, Duration) {
        self.stop.store(true, Ordering::SeqCst);
        let served = self.served();
        let mut took = self.running.join().expect("a client was told what is wrong");
        took.sort_unstable();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!("{what}: {served} of {} rounds served; p50 {p50:?}, p99 {p99:?}", took.len());
        (p50, p99)
    }
}

/// A round of a client that behaves, while nobody else asks and while others overdo it.
fn compare(alone: (Duration, Duration), meanwhile: (Duration, Duration)) {
    let ratio = |from: Duration, to: Duration| to.as_micros() * 10 / from.as_micros().max(1);
    let (p50, p99) = (ratio(alone.0, meanwhile.0), ratio(alone.1, meanwhile.1));
    println!("latency meanwhile: p50 {}.{} x, p99 {}.{} x", p50 / 10, p50 % 10, p99 / 10, p99 % 10);
}

fn alone(cluster: &Cluster) -> (Duration, Duration) {
    let good = Good::start(cluster);
    good.await_served(300);
    good.finish("alone")
}

/// A connection that does not wait, with a small window: what the server sends it waits there.
fn connect_small(runtime: &Runtime, address: SocketAddr) -> TcpStream {
    let connecting = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(address).await.unwrap().into_std().unwrap()
    };
    runtime.block_on(connecting)
}

/// Sends as much as the socket takes.
fn push(stream: &mut TcpStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // It takes no more, or has been closed.
            Err(_) => return,
        }
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// How many of these connections this process, and the leader, may have at once.
fn possible(wanted: usize) -> usize {
    let files = files::raise_limit().map_or(usize::MAX, |files| usize::try_from(files).unwrap());
    let possible = wanted.min(files.saturating_sub(1_000));
    if possible < wanted {
        println!("only {possible} connections of {wanted}: the system allows {files} open files");
    }
    possible
}

/// Opens so many connections, asks once on each, and says what the leader then has resident.
fn wave(cluster: &Cluster, count: usize, before: usize) -> usize {
    let mut clients: Vec<_> =
        (0..count).map(|_| TcpStream::connect(cluster.client).unwrap()).collect();
    eventually("all connections to be accepted", || {
        let files = open_files(cluster.leader_pid());
        // One that was there before may have gone meanwhile.
        if files + 8 >= before + count { Ok(()) } else { Err(files) }
    });
    let idle = resident(cluster.leader_pid());
    for client in &mut clients {
        client.write_all(b"GET key\n").unwrap();
    }
    for client in &mut clients {
        let mut reply = [0; 9];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"OK value\n");
    }
    let asked = resident(cluster.leader_pid());
    println!("{count} connections: {} KiB idle, {} KiB after a request", idle >> 10, asked >> 10);
    if count + 10 > MAX_CONNECTIONS - 100 {
        refused(cluster);
    }
    asked
}

/// One connection too many is told so.
fn refused(cluster: &Cluster) {
    let mut more = Vec::new();
    for _ in 0..200 {
        let mut client = cluster.connect();
        let reply = client.try_ask("PING");
        if let Ok(busy) = reply.as_ref().map(|reply| reply.starts_with("ERROR BUSY all 10000 "))
            && busy
        {
            return;
        }
        assert_eq!(reply.unwrap(), "PONG");
        more.push(client);
    }
    panic!("{} connections too many were served", more.len());
}

#[test]
fn ten_thousand_connections_are_served_and_leave_nothing_behind() {
    let count = possible(MAX_CONNECTIONS - 50);
    let cluster = Cluster::start(2, 2);
    assert_eq!(cluster.connect().ask("SET key value"), "OK");
    let leader = cluster.leader_pid();
    let (files, before) = (open_files(leader), resident(leader));
    let first = wave(&cluster, count, files);
    let each = first.saturating_sub(before) / count;
    println!("{each} bytes a connection");
    assert!(each <= 24 << 10, "{each} bytes a connection");
    await_open_files(leader, files);
    let second = wave(&cluster, count, files);
    assert!(second <= first + first / 10 + 8 * MIB, "{second} after {first}");
    await_open_files(leader, files);
    assert_eq!(cluster.connect().ask("GET key"), "OK value");
    println!("afterwards: {} KiB, at first {} KiB", resident(leader) >> 10, before >> 10);
}

/// Everything until the server closes, which it does.
fn told(stream: &mut TcpStream) -> String {
    let mut told = Vec::new();
    eventually("the end of a connection", || {
        let mut bytes = [0; 1024];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(read) => told.extend_from_slice(&bytes[..read]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ok(()),
        }
        Err(String::from_utf8_lossy(&told).into_owned())
    });
    String::from_utf8(told).unwrap()
}

#[test]
fn a_thousand_slow_senders_are_given_up_and_others_are_served() {
    let count = possible(1_000);
    let runtime = runtime();
    let options = Options::new(2, 2).with("HATOKUSE_LIMITS__READ_TIMEOUT", "3s");
    let cluster = Cluster::start_with(options);
    let leader = cluster.leader_pid();
    let (files, before) = (open_files(leader), resident(leader));
    let quiet = alone(&cluster);

    let good = Good::start(&cluster);
    let part = vec![b'v'; 100 << 10];
    let mut slow: Vec<_> = (0..count).map(|_| connect_small(&runtime, cluster.client)).collect();
    let mut sent = 0;
    for (number, client) in slow.iter_mut().enumerate() {
        push(client, b"SET slow ");
        if number % 2 == 0 {
            push(client, &part);
            sent += part.len();
        }
    }
    // A byte now and then, until they are given up.
    eventually("slow senders to be given up", || {
        slow.iter_mut().skip(1).step_by(2).for_each(|client| push(client, b"v"));
        let given_up = metric(&cluster, "hatokuse_timed_out_connections_total");
        if given_up >= count { Ok(()) } else { Err(given_up) }
    });
    good.await_served(100);
    compare(quiet, good.finish("meanwhile"));
    let dropped = "ERROR BUSY the rest of the line did not come and it was dropped; ";
    for client in slow.iter_mut().step_by(2) {
        let told = told(client);
        assert!(told.starts_with(dropped) || told.is_empty(), "{told}");
    }
    let most = peak(leader).saturating_sub(before);
    println!("{count} slow senders of {} MiB: {} MiB more", sent / MIB, most / MIB);
    assert!(most <= sent + CACHE_BYTES, "{most} bytes");
    await_open_files(leader, files);
    assert_eq!(
        cluster.connect().ask("GET slow"),
        "ERROR NOT_FOUND there is no such key; SET stores one"
    );
}

#[test]
fn large_requests_over_the_limit_of_all_are_busy_and_memory_stays_within_it() {
    let runtime = runtime();
    let limit = 64 * MIB;
    let options = Options::new(2, 2).with("HATOKUSE_LIMITS__MAX_INFLIGHT_BYTES", "64MiB");
    let cluster = Cluster::start_with(options);
    let leader = cluster.leader_pid();
    let before = resident(leader);
    let good = Good::start(&cluster);
    let begun = [b"SET large ".as_slice(), vec![b'v'; 7 * MIB].as_slice()].concat();
    let mut clients: Vec<_> = (0..60)
        .map(|_| {
            let client = connect_small(&runtime, cluster.client);
            client.set_nonblocking(false).unwrap();
            client
        })
        .collect();
    thread::scope(|scope| {
        for part in clients.chunks_mut(10) {
            let begun = &begun;
            scope.spawn(move || part.iter_mut().for_each(|one| one.write_all(begun).unwrap()));
        }
    });
    good.await_served(50);
    let most = peak(leader).saturating_sub(before);
    println!("420 MiB in 60 requests, of which 64 MiB may be: {} MiB more", most / MIB);
    assert!(most <= limit + SLACK_BYTES, "{most} bytes");
    let replies = clients.iter_mut().map(|client| {
        client.write_all(b"\n").unwrap();
        let mut reply = [0; 11];
        client.read_exact(&mut reply[..3]).unwrap();
        if &reply[..3] == b"ERR" {
            client.read_exact(&mut reply[3..]).unwrap();
            assert_eq!(&reply, b"ERROR BUSY ");
            return false;
        }
        assert_eq!(&reply[..3], b"OK\n");
        true
    });
    let (stored, busy): (Vec<_>, Vec<_>) = replies.partition(|stored| *stored);
    println!("{} stored, {} busy", stored.len(), busy.len());
    assert!(!busy.is_empty(), "all 420 MiB were taken");
    drop(clients);
    good.await_served(50);
    good.finish("meanwhile");
    let whole = [begun.as_slice(), b"\n"].concat();
    let mut client = cluster.connect();
    client.send(&whole).unwrap();
    assert_eq!(client.line().unwrap(), "OK");
}

#[test]
fn a_leader_without_file_descriptors_serves_whom_it_has_and_takes_others_later() {
    let cluster = Cluster::start(2, 2);
    let mut client = cluster.connect();
    let leader = Pid::from_raw(i32::try_from(cluster.leader_pid()).unwrap()).unwrap();
    let room = |room: usize| {
        let current = Some(u64::try_from(open_files(cluster.leader_pid()) + room).unwrap());
        let limit = Rlimit { current, maximum: current };
        prlimit(Some(leader), Resource::Nofile, limit).unwrap();
    };
    room(20);
    let mut others: Vec<_> =
        (0..60).map(|_| LineClient::connect(cluster.client).unwrap()).collect();
    for other in &mut others {
        other.send(b"GET key\n").unwrap();
    }
    for number in 0..100 {
        assert_eq!(client.ask(&format!("SET key {number}")), "OK");
    }
    // Those that were accepted make room for the others.
    for mut other in others {
        let reply = other.line().unwrap();
        assert!(reply.starts_with("OK ") || reply.starts_with("ERROR NOT_FOUND"), "{reply}");
    }
    assert_eq!(cluster.connect().ask("GET key"), "OK 99");
    cluster.await_health();
}

/// What a process, or the disk of all of them, holds.
fn figures(cluster: &Cluster, nodes: usize) -> Vec<(String, usize)> {
    let mut figures = Vec::new();
    let mut add = |name: &str, pid: u32| {
        figures.push((format!("{name} KiB"), resident(pid) >> 10));
        figures.push((format!("{name} files"), open_files(pid)));
    };
    add("leader", cluster.leader_pid());
    (0..nodes).for_each(|node| add(&format!("node {node}"), cluster.node_pid(node)));
    figures.push(("disk KiB".to_owned(), disk(cluster.directory()) >> 10));
    figures
}

/// Bytes of all files. One that has just gone counts nothing.
fn disk(directory: &std::path::Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            return Some(disk(&entry.path()));
        }
        usize::try_from(metadata.len()).ok()
    });
    bytes.sum()
}

#[allow(clippy::disallowed_methods, reason = "a switch of the test, no configuration")]
fn minutes() -> usize {
    std::env::var("HATOKUSE_MINUTES").map_or(30, |minutes| minutes.parse().unwrap())
}

/// A checked load, and each minute other clients that do not read: what is held does not grow.
///
/// `HATOKUSE_MINUTES=30 cargo test --test overload soak -- --ignored --nocapture`
#[test]
#[ignore = "takes half an hour; run by hand"]
fn soak() {
    let (nodes, minutes) = (3, minutes());
    let cluster = Cluster::start(nodes, 3);
    let work = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut options = chaos::Options::new(cluster.client.to_string());
    (options.clients, options.keys, options.value_bytes) = (20, 40, 500);
    let load = work.block_on(async { Load::start(options).unwrap() });
    let mut all = vec![figures(&cluster, nodes)];
    println!("start {:?}", all[0]);
    for minute in 1..=minutes {
        let mut others: Vec<_> = (0..200).map(|_| connect_small(&work, cluster.client)).collect();
        for other in &mut others {
            push(other, "HELP\n".repeat(2_000).as_bytes());
        }
        let _ = work.block_on(tokio::time::timeout(Duration::from_mins(1), load.finished()));
        drop(others);
        let now = figures(&cluster, nodes);
        println!("minute {minute}, {} writes: {now:?}", load.counts().writes);
        all.push(now);
    }
    let recorded = work.block_on(load.stop());
    let (early, late) = (&all[all.len().div_ceil(3)], all.last().unwrap());
    for ((name, early), (_, late)) in early.iter().zip(late) {
        let flat = *late <= early + early / 10;
        println!(
            "{name}: {early} after a third, {late} at the end{}",
            if flat { "" } else { ": GROWS" }
        );
    }
    let verdict = recorded.judge();
    println!("{verdict}");
    assert!(verdict.passed(), "{verdict}");
}
