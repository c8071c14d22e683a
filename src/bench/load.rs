//! What the clients do, and with whom.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// How many keys all clients have together, if their values are small.
const KEYS: usize = 10_000;
/// How many bytes the values of all keys may take.
const TOTAL_VALUE_BYTES: usize = 32 << 20;

/// One request of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Store a value.
    Set,
    /// Read a value.
    Get,
}

impl Operation {
    /// Its name, as in the protocols.
    pub fn name(self) -> &'static str {
        match self {
            Self::Set => "SET",
            Self::Get => "GET",
        }
    }
}

/// How many of a hundred requests are writes; the others read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    writes: u8,
}

impl Mix {
    /// Writes only.
    pub const SET: Self = Self { writes: 100 };
    /// Reads only, of keys that exist.
    pub const GET: Self = Self { writes: 0 };
    /// Four reads to one write.
    pub const MOSTLY_GET: Self = Self { writes: 20 };

    /// Whether there are reads among the requests.
    pub fn reads(self) -> bool {
        self.writes < 100
    }

    /// The operation for a random number.
    pub(super) fn choose(self, random: u64) -> Operation {
        if random % 100 < u64::from(self.writes) { Operation::Set } else { Operation::Get }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SET => f.write_str("SET"),
            Self::GET => f.write_str("GET"),
            Self { writes } => write!(f, "{} % GET, {writes} % SET", 100 - writes),
        }
    }
}

/// What the clients do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many clients there are, each with a connection of its own (those of etcd share some).
    pub clients: usize,
    /// How many requests a client sends before it waits for the replies.
    pub pipeline: usize,
    /// Bytes in each value.
    pub value_bytes: usize,
    /// Which requests.
    pub mix: Mix,
    /// How long a reply may take before the run is given up.
    pub reply_within: Duration,
}

impl Load {
    /// How many keys a client has: enough that the requests of one batch are on different ones.
    pub(super) fn slots(&self) -> u32 {
        let keys = KEYS.min(TOTAL_VALUE_BYTES / self.value_bytes.max(1));
        let each = (keys / self.clients.max(1)).max(self.pipeline).max(1);
        u32::try_from(each).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clients = if self.clients == 1 { "client" } else { "clients" };
        write!(f, "{}, {} {clients}", self.mix, self.clients)?;
        if self.pipeline > 1 {
            write!(f, " x {} pipelined", self.pipeline)?;
        }
        Ok(())
    }
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Our own line protocol.
    Line,
    /// Redis's.
    Resp {
        /// After the writes of a batch, `WAIT` for this many replicas; 0 for none.
        replicas: u32,
    },
    /// etcd's gRPC: put, and linearizable range.
    Etcd,
}

/// Whom the clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
}
