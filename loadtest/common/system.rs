//! A system under load, whichever it is.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::bail;
use hatokuse::bench::options::{IoMode, Peer, Plan};
use hatokuse::bench::report::Words;
use hatokuse::bench::{Protocol, Target};
use hatokuse::client::http;
use tempfile::TempDir;

use super::process::{Running, metric};
use super::{etcd, ours, redis};

/// How long an answer with metrics may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Which system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Redis,
    Etcd,
}

impl Kind {
    pub(super) fn of(peer: Peer) -> Self {
        match peer {
            Peer::Redis => Self::Redis,
            Peer::Etcd => Self::Etcd,
        }
    }

    pub(super) fn words(self) -> Words {
        match self {
            Self::Ours => Words { name: "HaToKuSe", front: "leader", back: "nodes" },
            Self::Redis => Words { name: "Redis", front: "primary", back: "replicas" },
            Self::Etcd => Words { name: "etcd", front: "leader", back: "followers" },
        }
    }

    /// What it has done when a write counts as done.
    pub(super) fn durability(self, plan: &Plan) -> String {
        let (copies, nodes, others) = (plan.copies, plan.nodes, plan.copies - 1);
        let synced = plan.io_mode == IoMode::Unbuffered;
        match self {
            Self::Ours => {
                let how = if synced { "synced to disk by" } else { "handed to the system by" };
                format!(
                    "a leader, {nodes} nodes; a write is {how} {copies} of them before its reply"
                )
            }
            Self::Redis => {
                let how = if synced {
                    "appendfsync always: synced to disk by each"
                } else {
                    "no persistence: kept in memory by each"
                };
                format!(
                    "a primary, {others} replicas; {how} before WAIT {others} after the writes of \
                     a batch says {others}"
                )
            }
            Self::Etcd => format!(
                "{copies} members; a write is synced to disk by {} of them before its reply; \
                 reads are linearizable; clients talk to the leader",
                copies / 2 + 1
            ),
        }
    }

    /// An error that says what to install, if it is not.
    pub(super) fn must_be_installed(self) -> anyhow::Result<()> {
        let (program, package) = match self {
            Self::Ours => return Ok(()),
            Self::Redis => ("redis-server", "redis-server"),
            Self::Etcd => ("etcd", "etcd-server"),
        };
        let quiet = Stdio::null;
        let tried = Command::new(program).arg("--version").stdout(quiet()).stderr(quiet()).status();
        match tried {
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "{program} is not installed; on Debian and Ubuntu: apt-get install {package} (and \
                 stop the service that starts with it)"
            ),
            _ => Ok(()),
        }
    }
}

/// A running system. It ends, and its data with it, when it is dropped.
pub(super) struct System {
    pub(super) protocol: Protocol,
    /// Where clients connect.
    pub(super) address: SocketAddr,
    /// The process that clients talk to, and the others.
    pub(super) front: Running,
    pub(super) back: Vec<Running>,
    /// Where metrics are scraped, and the names of the counters of syncs there.
    pub(super) scraped: Vec<SocketAddr>,
    pub(super) counters: &'static [&'static str],
    /// Dropped last.
    pub(super) data: TempDir,
}

impl System {
    /// A new, empty one that serves.
    pub(super) async fn start(kind: Kind, plan: &Plan) -> anyhow::Result<Self> {
        match kind {
            Kind::Ours => ours::start(plan).await,
            Kind::Redis => redis::start(plan).await,
            Kind::Etcd => etcd::start(plan).await,
        }
    }

    pub(super) fn target(&self) -> Target {
        Target { protocol: self.protocol, address: self.address }
    }

    pub(super) fn front(&self) -> u32 {
        self.front.pid()
    }

    pub(super) fn back(&self) -> Vec<u32> {
        self.back.iter().map(Running::pid).collect()
    }

    pub(super) fn directory(&self) -> &Path {
        self.data.path()
    }

    /// How many syncs all processes have counted so far, if they count them.
    pub(super) async fn fsyncs(&self) -> Option<u64> {
        let mut sum = None;
        for address in &self.scraped {
            let text = scrape(*address).await.ok()?;
            let counts = self.counters.iter().filter_map(|name| metric(&text, name));
            sum = Some(sum.unwrap_or_default() + counts.sum::<u64>());
        }
        sum
    }
}

/// The metrics of a process.
pub(super) async fn scrape(address: SocketAddr) -> anyhow::Result<String> {
    Ok(http::get(&address.to_string(), "/metrics", ANSWER_WITHIN).await?.body)
}
