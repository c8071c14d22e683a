//! Streams between leader and nodes.
//!
//! A stream is a TCP connection: it delivers in order or breaks. When it breaks, what is under way
//! may be lost from some point on, and each side learns of it in its own time: until then the
//! receiver goes on taking what still arrives. Across streams there is no order at all, so a message
//! of a stream long given up may arrive after those of its successor.

use std::collections::BTreeMap;

use super::messages::{ToLeader, ToNode};
use super::profile::Profile;
use super::random::Random;
use crate::types::Moment;

/// Names a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StreamId(pub(super) u64);

/// One direction of a stream.
#[derive(Clone, Copy, Debug, Default)]
struct Lane {
    /// When the last message arrives.
    last: Moment,
    /// What arrives later than this is lost.
    cut: Option<Moment>,
    /// What is under way is held up until then.
    held: Moment,
}

/// A stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Which start of the leader opened it.
    pub(super) incarnation: u64,
    pub(super) node: usize,
    /// Which start of the node it reached.
    pub(super) boot: u64,
    to_node: Lane,
    to_leader: Lane,
    pub(super) broken: bool,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToNode,
    ToLeader,
}

/// What is sent.
#[derive(Clone, Debug)]
pub(super) enum Message {
    ToNode(ToNode),
    ToLeader(ToLeader),
}

impl Message {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::ToNode(_) => Way::ToNode,
            Self::ToLeader(_) => Way::ToLeader,
        }
    }
}

/// All streams, and the ways that are cut.
#[derive(Debug)]
pub(super) struct Network {
    streams: BTreeMap<StreamId, Stream>,
    next: u64,
    /// Nothing gets through from leader to node, or back, before these times.
    to_node: Vec<Moment>,
    to_leader: Vec<Moment>,
    /// Nothing gets through between two nodes before this time.
    between: BTreeMap<(usize, usize), Moment>,
}

/// How long a message takes.
pub(super) fn delay(profile: &Profile, random: &mut Random) -> u64 {
    if random.per_million(profile.long_delays) {
        return random.between(profile.delay, profile.longest_delay.max(profile.delay));
    }
    random.between(profile.delay, profile.delay * 2)
}

impl Network {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            streams: BTreeMap::new(),
            next: 0,
            to_node: vec![Moment::ZERO; nodes],
            to_leader: vec![Moment::ZERO; nodes],
            between: BTreeMap::new(),
        }
    }

    pub(super) fn open(&mut self, incarnation: u64, node: usize, boot: u64) -> StreamId {
        self.next += 1;
        let id = StreamId(self.next);
        let lane = Lane::default();
        let stream =
            Stream { incarnation, node, boot, to_node: lane, to_leader: lane, broken: false };
        self.streams.insert(id, stream);
        id
    }

    pub(super) fn stream(&self, id: StreamId) -> &Stream {
        &self.streams[&id]
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = (StreamId, &Stream)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    /// When a message that is sent now arrives; never, on a broken stream.
    pub(super) fn send(
        &mut self,
        now: Moment,
        id: StreamId,
        way: Way,
        delay: u64,
    ) -> Option<Moment> {
        let stream = self.streams.get_mut(&id)?;
        if stream.broken {
            return None;
        }
        let (lane, open) = match way {
            Way::ToNode => (&mut stream.to_node, self.to_node[stream.node]),
            Way::ToLeader => (&mut stream.to_leader, self.to_leader[stream.node]),
        };
        lane.last = lane.last.max(Moment(now.max(open).0 + delay));
        Some(lane.last)
    }

    /// Whether a message that arrives now on this stream was not lost when it broke.
    pub(super) fn arrives(&self, now: Moment, id: StreamId, way: Way) -> bool {
        self.lane(id, way).cut.is_none_or(|cut| now <= cut)
    }

    fn lane(&self, id: StreamId, way: Way) -> &Lane {
        let stream = self.stream(id);
        if way == Way::ToNode { &stream.to_node } else { &stream.to_leader }
    }

    /// Until when what is under way on a stream is held up, all of it: its order stays.
    pub(super) fn held(&self, id: StreamId, way: Way) -> Moment {
        self.lane(id, way).held
    }

    /// Holds up what is under way on a stream.
    pub(super) fn hold(&mut self, id: StreamId, way: Way, until: Moment) {
        if let Some(stream) = self.streams.get_mut(&id) {
            let lane = if way == Way::ToNode { &mut stream.to_node } else { &mut stream.to_leader };
            lane.held = lane.held.max(until);
        }
    }

    /// Breaks a stream; false if it was broken already.
    pub(super) fn break_stream(&mut self, now: Moment, id: StreamId, random: &mut Random) -> bool {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.broken) else {
            return false;
        };
        stream.broken = true;
        for lane in [&mut stream.to_node, &mut stream.to_leader] {
            let cut = match random.below(4) {
                0 => now.0,
                1 | 2 => now.0 + random.below(lane.last.0.saturating_sub(now.0) + 1),
                _ => u64::MAX,
            };
            lane.cut = Some(Moment(cut));
        }
        true
    }

    pub(super) fn cut_leader(&mut self, node: usize, way: Way, until: Moment) {
        let ways = if way == Way::ToNode { &mut self.to_node } else { &mut self.to_leader };
        ways[node] = ways[node].max(until);
    }

    pub(super) fn is_cut(&self, now: Moment, node: usize) -> bool {
        self.to_node[node] > now || self.to_leader[node] > now
    }

    /// When something sent outside streams from a node to the leader arrives.
    pub(super) fn to_leader(&self, now: Moment, node: usize, delay: u64) -> Moment {
        Moment(now.max(self.to_leader[node]).0 + delay)
    }

    /// When something sent outside streams from the leader to a node arrives.
    pub(super) fn to_node(&self, now: Moment, node: usize, delay: u64) -> Moment {
        Moment(now.max(self.to_node[node]).0 + delay)
    }

    pub(super) fn cut_nodes(&mut self, one: usize, other: usize, until: Moment) {
        self.between.insert((one.min(other), one.max(other)), until);
    }

    /// When something a node sends to another arrives.
    pub(super) fn between(&self, now: Moment, one: usize, other: usize, delay: u64) -> Moment {
        let open = self.between.get(&(one.min(other), one.max(other))).copied();
        Moment(now.max(open.unwrap_or_default()).0 + delay)
    }

    /// All ways are open again.
    pub(super) fn heal(&mut self) {
        self.to_node.fill(Moment::ZERO);
        self.to_leader.fill(Moment::ZERO);
        self.between.clear();
    }
}
