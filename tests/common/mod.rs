//! Real clusters of real processes, on loopback and free ports, in temporary directories.
//!
//! A [`Cluster`] starts a leader and nodes one by one, so that a test can kill, stop, freeze and
//! start each of them. All waiting is for conditions, with deadlines ([`eventually`]). Whatever
//! happens to the test, its processes end: they are killed when the cluster is dropped, and they
//! stop by themselves when the test's process is gone.
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod checked;
mod client;
mod cluster;
mod load;
mod process;
mod proxy;

use std::fmt::Debug;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

pub(crate) use checked::{CheckedLoad, seed};
pub(crate) use client::LineClient;
pub(crate) use cluster::{Cluster, Network, Options, Status};
pub(crate) use load::Load;
pub(crate) use process::{Process, send};
pub(crate) use proxy::{Proxy, Weather};

/// Long enough for anything that happens at all, on a machine that does much else.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// Looks again and again until there is something to see; what was seen instead is said in vain.
#[allow(clippy::disallowed_methods, reason = "between two looks at a condition, with a deadline")]
pub(crate) fn eventually<T, E: Debug>(what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(seen) => return seen,
            Err(other) if start.elapsed() > DEADLINE => {
                panic!("waited {DEADLINE:?} in vain for {what}; there is {other:?}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// An operator's command, to the leader of this cluster.
pub(crate) fn operator(cluster: &Cluster, arguments: &[&str]) -> Output {
    let admin = cluster.admin.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hatokuse"));
    command.args(["--admin-addr", &admin, "--timeout", "60s"]).args(arguments).output().unwrap()
}

/// What a command printed.
pub(crate) fn text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Lets a fault last. What is waited for is waited for with [`eventually`].
#[allow(clippy::disallowed_methods, reason = "the time is the fault")]
pub(crate) fn hold(fault: Duration) {
    std::thread::sleep(fault);
}

/// Prints how long something took. Times are reported, never asserted.
#[allow(clippy::disallowed_methods, reason = "times are reported, never asserted")]
pub(crate) fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:?}", start.elapsed());
    result
}

/// Numbers that look random and are the same in every run (Steele, Lea and Flood, 2014).
#[derive(Debug)]
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A key in the form of a UUID, as the course's client makes them.
    pub(crate) fn uuid(&mut self) -> String {
        let (a, b) = (self.next(), self.next());
        let (high, middle, low) = (a >> 32, (a >> 16) & 0xffff, a & 0xfff);
        format!("{high:08x}-{middle:04x}-4{low:03x}-8{:03x}-{:012x}", b >> 52, b & 0xffff_ffff_ffff)
    }

    /// Letters.
    pub(crate) fn text(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(b'a' + u8::try_from(self.below(26)).unwrap())).collect()
    }
}
