//! What the processes of a cluster print on standard output: a contract for scripts.
//!
//! Each line is a word, or two, and fields `name=value`. Values hold no spaces but the last,
//! `data`, which goes to the end of the line: paths may. A reader skips fields and lines that it
//! does not know, so that a later version may add some.
//!
//! ```text
//! listening client=127.0.0.1:6000 admin=127.0.0.1:8080 grpc=127.0.0.1:50051 data=hatokuse-data/leader
//! registered id=0197c5f2-... addr=127.0.0.1:50052 admin=127.0.0.1:41873 data=hatokuse-data/slots/0001
//! ```
//!
//! `leader` prints the first once its ports are open, `node` the second once a leader has accepted
//! it. `dev` starts both, and prints what scripts need to know about all of them:
//!
//! ```text
//! leader pid=4711 client=127.0.0.1:6000 admin=127.0.0.1:8080 grpc=127.0.0.1:50051 data=hatokuse-data/leader
//! node pid=4712 id=0197c5f2-... addr=127.0.0.1:50052 admin=127.0.0.1:41873 data=hatokuse-data/slots/0001
//! ready client=127.0.0.1:6000 admin=127.0.0.1:8080 nodes=5
//! exited node pid=4712 signal=9
//! ```

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::str::FromStr;

/// A leader whose ports are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Where clients connect.
    pub client: SocketAddr,
    /// Where operators look.
    pub admin: SocketAddr,
    /// Where nodes connect.
    pub grpc: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
}

/// A node that a leader has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    /// The identity of its store.
    pub id: String,
    /// Where it answers the leader.
    pub addr: SocketAddr,
    /// Where its health and metrics are.
    pub admin: SocketAddr,
    /// The directory of its store.
    pub data: PathBuf,
}

/// What a child of `dev` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The gateway.
    Leader,
    /// A store of shards.
    Node,
}

/// A line that `leader` or `node` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// A leader is there.
    Listening(Listening),
    /// A node is there.
    Registered(Registered),
}

/// A line that `dev` prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The leader runs.
    Leader {
        /// Its process.
        pid: u32,
        /// What it said.
        listening: Listening,
    },
    /// A node runs.
    Node {
        /// Its process.
        pid: u32,
        /// What it said.
        registered: Registered,
    },
    /// Every node is registered and every partition serves.
    Ready {
        /// Where clients connect.
        client: SocketAddr,
        /// Where operators look.
        admin: SocketAddr,
        /// How many nodes there are.
        nodes: usize,
    },
    /// A child has ended.
    Exited {
        /// What it was.
        kind: Kind,
        /// Its process.
        pid: u32,
        /// How it ended.
        how: Exit,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this exit code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Node => "node",
        })
    }
}

impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, admin, grpc, data } = self;
        write!(f, "client={client} admin={admin} grpc={grpc} data={}", data.display())
    }
}

impl fmt::Display for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, addr, admin, data } = self;
        write!(f, "id={id} addr={addr} admin={admin} data={}", data.display())
    }
}

impl fmt::Display for Announcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listening(listening) => write!(f, "listening {listening}"),
            Self::Registered(registered) => write!(f, "registered {registered}"),
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code={code}"),
            Self::Signal(signal) => write!(f, "signal={signal}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leader { pid, listening } => write!(f, "leader pid={pid} {listening}"),
            Self::Node { pid, registered } => write!(f, "node pid={pid} {registered}"),
            Self::Ready { client, admin, nodes } => {
                write!(f, "ready client={client} admin={admin} nodes={nodes}")
            }
            Self::Exited { kind, pid, how } => write!(f, "exited {kind} pid={pid} {how}"),
        }
    }
}

impl Announcement {
    /// Prints the line. Whether anybody still reads it is no concern of a server.
    pub fn print(&self) {
        print_line(self);
    }

    /// Reads a line; `None` if it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        match word {
            "listening" => Listening::parse(&Fields(rest)).map(Self::Listening),
            "registered" => Registered::parse(&Fields(rest)).map(Self::Registered),
            _ => None,
        }
    }
}

impl Listening {
    fn parse(fields: &Fields<'_>) -> Option<Self> {
        let (client, admin) = (fields.parsed("client")?, fields.parsed("admin")?);
        Some(Self { client, admin, grpc: fields.parsed("grpc")?, data: fields.data()?.into() })
    }
}

impl Registered {
    fn parse(fields: &Fields<'_>) -> Option<Self> {
        let (id, addr) = (fields.get("id")?.to_owned(), fields.parsed("addr")?);
        Some(Self { id, addr, admin: fields.parsed("admin")?, data: fields.data()?.into() })
    }
}

impl Event {
    /// Prints the line.
    pub fn print(&self) {
        print_line(self);
    }

    /// Reads a line; `None` if it is none of these.
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let fields = Fields(rest);
        Some(match word {
            "leader" => {
                let listening = Listening::parse(&fields)?;
                Self::Leader { pid: fields.parsed("pid")?, listening }
            }
            "node" => {
                let registered = Registered::parse(&fields)?;
                Self::Node { pid: fields.parsed("pid")?, registered }
            }
            "ready" => {
                let (client, admin) = (fields.parsed("client")?, fields.parsed("admin")?);
                Self::Ready { client, admin, nodes: fields.parsed("nodes")? }
            }
            "exited" => {
                let kind = if rest.starts_with("leader ") { Kind::Leader } else { Kind::Node };
                let signal = fields.parsed("signal").map(Exit::Signal);
                let how = signal.or_else(|| fields.parsed("code").map(Exit::Code))?;
                Self::Exited { kind, pid: fields.parsed("pid")?, how }
            }
            _ => return None,
        })
    }
}

fn print_line(line: &impl fmt::Display) {
    let mut stdout = io::stdout();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// The fields of a line.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let before_data = self.0.split_once("data=").map_or(self.0, |(before, _)| before);
        let mut fields = before_data.split(' ').filter_map(|field| field.split_once('='));
        fields.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Option<T> {
        self.get(name)?.parse().ok()
    }

    fn data(&self) -> Option<&'a str> {
        self.0.split_once("data=").map(|(_, data)| data)
    }
}

/// A path as it is best shown: relative to the working directory where it lies below it.
pub fn shown(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn listening() -> Listening {
        let data = PathBuf::from("my data/leader");
        Listening { client: address(6000), admin: address(8080), grpc: address(50051), data }
    }

    fn registered() -> Registered {
        let data = PathBuf::from("my data/slots/0001");
        Registered { id: "0197-a".to_owned(), addr: address(50052), admin: address(41873), data }
    }

    #[test]
    fn what_is_announced_is_read_back() {
        for line in [Announcement::Listening(listening()), Announcement::Registered(registered())] {
            assert_eq!(Announcement::parse(&line.to_string()), Some(line));
        }
        let newer = "registered id=a kind=fast addr=127.0.0.1:1 admin=127.0.0.1:2 data=d";
        assert!(matches!(Announcement::parse(newer), Some(Announcement::Registered(_))));
        assert_eq!(Announcement::parse("listening client=127.0.0.1:6000 data=x"), None);
        assert_eq!(Announcement::parse("thread main panicked"), None);
    }

    #[test]
    fn the_lines_of_dev_are_the_contract() {
        let lines = [
            Event::Leader { pid: 4711, listening: listening() },
            Event::Node { pid: 4712, registered: registered() },
            Event::Ready { client: address(6000), admin: address(8080), nodes: 5 },
            Event::Exited { kind: Kind::Node, pid: 4712, how: Exit::Signal(9) },
            Event::Exited { kind: Kind::Leader, pid: 4711, how: Exit::Code(1) },
        ];
        let expected = [
            "leader pid=4711 client=127.0.0.1:6000 admin=127.0.0.1:8080 grpc=127.0.0.1:50051 \
             data=my data/leader",
            "node pid=4712 id=0197-a addr=127.0.0.1:50052 admin=127.0.0.1:41873 \
             data=my data/slots/0001",
            "ready client=127.0.0.1:6000 admin=127.0.0.1:8080 nodes=5",
            "exited node pid=4712 signal=9",
            "exited leader pid=4711 code=1",
        ];
        assert_eq!(lines.each_ref().map(ToString::to_string), expected);
        for line in lines {
            assert_eq!(Event::parse(&line.to_string()), Some(line));
        }
        assert_eq!(Event::parse("exited node pid=4712"), None);
        assert_eq!(Event::parse("note that nothing is wrong"), None);
    }
}
