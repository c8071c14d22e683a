//! Runs the golden scripts of `tests/scripts/membership`, and what a script cannot say.
//!
//! A script is a dialogue: a line is a command, the lines after it that begin with `>` are what the
//! membership says to it. Commands:
//!
//! ```text
//! leader [copies=4] [floor=2] [nodes=N]   a leader begins, with the metadata there is
//! register STORE [boot=B] [cluster=none|ours|other] [format=F] [port=P]
//!                [promised=E] [heard=V]   what it heard: an epoch, a version for every partition
//! copy | put_back                         the metadata is copied, and the copy put back
//! change                                  every partition's configuration changes
//! join STORE...                           register until accepted, and connect
//! connect STORE | disconnect STORE | send STORE | ack STORE
//! silent STORE... | alive STORE...        who sends heartbeats while time passes
//! wait TIME                               ticks, with heartbeats
//! stall TIME                              no ticks, then one
//! short N without STORE                   N partitions would be short without this store
//! leave STORE [boot=B]
//! copies N floor=F
//! drain STORE | undrain STORE | decommission STORE [held=N]   an operator's wish
//! shares                                  how many partitions the ring proposes each store for
//! nodes                                   how every store is seen
//! ```
//!
//! With the variable `UPDATE_SCRIPTS` set, the answers are written down instead of compared.

use std::fmt::{Debug, Write as _};
use std::path::Path;
use std::str::FromStr;
use std::{env, fs};

use super::*;
use crate::types::{IndexKey, PartitionCount};

/// What a script drives.
struct Cast {
    now: Moment,
    settings: MembershipSettings,
    state: State,
    /// A copy of it, made earlier.
    copy: State,
    membership: Membership,
    /// Stores whose nodes send heartbeats.
    alive: BTreeSet<u64>,
    /// Partitions that are short without a store.
    short: BTreeMap<StoreId, u16>,
    /// Clusters that could be created so far.
    spares: u128,
}

fn id(number: u64) -> StoreId {
    StoreId::from_number(u128::from(number))
}

fn number(store: StoreId) -> u8 {
    store.as_bytes()[15]
}

fn boot(number: u64) -> BootId {
    BootId::from_number(u128::from(number))
}

fn spare(number: u128) -> Cluster {
    Cluster {
        id: ClusterId::from_number(number),
        index_key: IndexKey([9; 16]),
        partitions: PartitionCount::DEFAULT,
        created: 0,
    }
}

/// The words of a line: those without `=`, and the others by name.
struct Line<'a> {
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Line<'a> {
    fn new(text: &'a str) -> Self {
        let (options, words): (Vec<&str>, Vec<&str>) =
            text.split_whitespace().partition(|word| word.contains('='));
        let options = options.into_iter().filter_map(|option| option.split_once('=')).collect();
        Self { words, options }
    }

    fn number<N: TryFrom<u64, Error: Debug>>(&self, at: usize) -> N {
        self.words[at].parse::<u64>().expect("a number").try_into().expect("not so large")
    }

    fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.words[1..].iter().map(|word| word.parse().expect("a number"))
    }

    fn option<N: FromStr<Err: Debug>>(&self, name: &str) -> Option<N> {
        self.options.get(name).map(|value| value.parse().expect("a number"))
    }
}

impl Cast {
    fn new() -> Self {
        let settings = MembershipSettings::default();
        let state = State::default();
        let membership = Membership::new(settings, Moment::ZERO, &state, spare(1));
        Self {
            now: Moment::ZERO,
            settings,
            state,
            copy: State::default(),
            membership,
            alive: BTreeSet::new(),
            short: BTreeMap::new(),
            spares: 0,
        }
    }

    fn begin(&mut self, line: &Line<'_>) {
        self.settings.copies = line.option("copies").unwrap_or(4);
        self.settings.floor = line.option("floor").unwrap_or(2);
        self.settings.bootstrap_nodes = line.option("nodes");
        self.spares += 1;
        self.state.apply(&Change::Epoch(self.state.epoch.next())).unwrap();
        self.membership = Membership::new(self.settings, self.now, &self.state, spare(self.spares));
        self.alive.clear();
    }

    fn step(&mut self, input: Input) -> Vec<String> {
        let short = self.short.clone();
        let which = |without: &BTreeSet<StoreId>| {
            let count = without.iter().filter_map(|store| short.get(store)).max().copied();
            (0..count.unwrap_or(0)).map(PartitionId).collect()
        };
        let outputs = self.membership.step(self.now, input, &which);
        outputs.into_iter().map(|output| self.tell(output)).collect()
    }

    fn link(&mut self, input: detector::Input) -> Vec<String> {
        self.step(Input::Link(input))
    }

    /// Carries out an output and says what it was.
    fn tell(&mut self, output: Output) -> String {
        match output {
            Output::Persist(changes) => {
                let said = describe(&changes);
                for change in &changes {
                    self.state.apply(change).expect("no change goes back");
                }
                said
            }
            Output::Founded(cluster) => format!("founded with {} members", {
                assert_eq!(self.state.cluster, Some(cluster), "persisted before");
                self.state.members.len()
            }),
            Output::Outdated => "the metadata is an older copy".into(),
            Output::Answer { store, answer, .. } => match answer {
                Answer::Accepted => format!("{} accepted", number(store)),
                Answer::Pending { reason, .. } => format!("{} pending: {reason}", number(store)),
                Answer::Refused { reason, last_word } => {
                    let kind = if last_word { "refused for good" } else { "refused" };
                    format!("{} {kind}: {}", number(store), shorten(&reason))
                }
                Answer::Decommissioned => format!("{} was decommissioned", number(store)),
            },
            Output::Link { store, boot, address } => {
                format!("link {} boot {} at {address}", number(store), boot.as_bytes()[15])
            }
            Output::Unlink(store) => format!("unlink {}", number(store)),
            Output::Suspected { store, why } => format!("suspect {}: {why}", number(store)),
            Output::Recovered(store) => format!("live {}", number(store)),
            Output::Evicted(store) => format!("evict {}", number(store)),
            Output::Slow { store, .. } => format!("slow {}", number(store)),
            Output::Fast(store) => format!("fast {}", number(store)),
            Output::Targets(table) => format!("targets {}", shares(&table)),
            Output::Copies { copies, floor } => format!("copies {copies} floor {floor}"),
            Output::Departure { store, partitions_left, may_stop, .. } => {
                let word = if may_stop { "may stop" } else { "waits" };
                format!("{} {word}, {partitions_left} partitions left", number(store))
            }
            Output::Newcomer { store, away } => {
                let away: Vec<_> = away.into_iter().map(number).collect();
                format!("{} is new while {away:?} are away", number(store))
            }
            Output::Stalled(late) => format!("stalled {late:?}"),
            Output::AllLate => "all late".into(),
        }
    }

    /// Lets time pass, and says with its time what happened.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        let (start, end) = (self.now, self.now + time);
        let mut all = Vec::new();
        while self.now < end {
            self.now = self.now + self.settings.detector.tick_interval;
            let mut said = Vec::new();
            for number in self.alive.clone() {
                let store = id(number);
                let boot = self.membership.boots.get(&store).copied();
                said.extend(boot.map(|boot| self.step(Input::Heartbeat { store, boot })));
            }
            said.push(self.step(Input::Tick));
            let at = self.now.since(start);
            all.extend(said.concat().into_iter().map(|line| format!("{at:?}: {line}")));
        }
        all
    }

    fn register(&mut self, line: &Line<'_>, store: u64) -> Vec<String> {
        let cluster = match line.options.get("cluster").copied() {
            None | Some("none") => None,
            Some("ours") => self.state.cluster.map(|cluster| cluster.id),
            Some(_) => Some(ClusterId::from_number(99)),
        };
        let port = line.option("port").unwrap_or(50000 + store);
        let registration = Registration {
            store: id(store),
            cluster,
            boot: boot(line.option("boot").unwrap_or(store)),
            address: format!("h:{port}"),
            admin_address: String::new(),
            format: line.option("format").unwrap_or(1),
            heard: Heard {
                promised: Epoch(line.option("promised").unwrap_or(0)),
                configurations: line
                    .option("heard")
                    .map(|version| vec![ConfigurationVersion(version); 1024])
                    .unwrap_or_default(),
            },
        };
        self.step(Input::Register(registration))
    }

    /// What nodes do by themselves: register until accepted, connect, show that they live.
    fn join(&mut self, line: &Line<'_>) -> Vec<String> {
        let mut said = Vec::new();
        let stores: Vec<u64> = line.numbers().collect();
        for _ in 0..40 {
            let answers: Vec<String> =
                stores.iter().flat_map(|store| self.register(line, *store)).collect();
            if !answers.iter().any(|answer| answer.contains("pending")) {
                said.extend(answers);
                break;
            }
            said.extend(self.wait(Duration::from_millis(200)));
        }
        for store in stores {
            self.alive.insert(store);
            said.extend(self.link(detector::Input::Connected(id(store))));
        }
        said
    }

    fn run(&mut self, command: &str) -> Vec<String> {
        let line = Line::new(command);
        let named = |of: fn(StoreId) -> detector::Input| of(id(line.number(1)));
        match line.words[0] {
            "leader" => self.begin(&line),
            "copy" => self.copy = self.state.clone(),
            "put_back" => self.state = self.copy.clone(),
            "change" => self.change(),
            "register" => return self.register(&line, line.number(1)),
            "join" => return self.join(&line),
            "connect" => return self.link(named(detector::Input::Connected)),
            "disconnect" => return self.link(named(detector::Input::Disconnected)),
            "send" => return self.link(named(detector::Input::Sent)),
            "ack" => {
                let store = id(line.number(1));
                return self.link(detector::Input::Acknowledged { store, outstanding: false });
            }
            "silent" => line.numbers().for_each(|store| {
                self.alive.remove(&store);
            }),
            "alive" => self.alive.extend(line.numbers()),
            "wait" => return self.wait(time(line.words[1])),
            "stall" => {
                self.now = self.now + time(line.words[1]);
                return self.step(Input::Tick);
            }
            "short" => {
                self.short.insert(id(line.number(3)), line.number(1));
            }
            "leave" => {
                let store = line.number(1);
                let boot = boot(line.option("boot").unwrap_or(store));
                return self.step(Input::Leave { store: id(store), boot });
            }
            "copies" => {
                let floor = line.option("floor").expect("floor");
                return self.step(Input::Copies { copies: line.number(1), floor });
            }
            "drain" => return self.wish(line.number(1), Wish::Drain),
            "undrain" => return self.wish(line.number(1), Wish::Undrain),
            "decommission" => {
                let held = line.option("held").unwrap_or(0);
                return self.wish(line.number(1), Wish::Decommission { held });
            }
            "shares" => return vec![shares(self.membership.table())],
            "nodes" => return self.nodes(),
            other => panic!("unknown command {other}"),
        }
        Vec::new()
    }

    fn change(&mut self) {
        for partition in PartitionCount::DEFAULT.all() {
            let mut configuration = self.state.configurations[partition.index()].clone();
            configuration.version = configuration.version.next();
            self.state.apply(&Change::Configuration(partition, configuration)).unwrap();
        }
    }

    fn wish(&mut self, store: u64, wish: Wish) -> Vec<String> {
        let store = id(store);
        match self.membership.objection_to(store, wish) {
            Some(objection) => vec![shorten(&format!("not granted: {objection}"))],
            None => self.step(Input::Operator { store, wish }),
        }
    }

    fn nodes(&self) -> Vec<String> {
        let refusal = self.membership.refusal().map(|_| "the leader refuses to serve".into());
        let node = |node: Node<'_>| {
            let ring = match (node.info.placed, node.info.drained) {
                (_, true) => ", drained",
                (true, false) => ", on the ring",
                (false, false) => "",
            };
            format!("{} {} at {}{ring}", number(node.store), node.status.name(), node.info.address)
        };
        refusal.into_iter().chain(self.membership.nodes(self.now).map(node)).collect()
    }
}

fn time(text: &str) -> Duration {
    humantime::parse_duration(text).expect("a time")
}

/// Identities in words: their zeroes are not worth reading.
fn shorten(reason: &str) -> String {
    reason.replace("00000000-0000-0000-0000-0000000000", "..")
}

fn shares(table: &Table) -> String {
    let partitions = PartitionCount::DEFAULT;
    let stores: BTreeSet<StoreId> =
        partitions.all().flat_map(|partition| table.stores(partition)).copied().collect();
    let share = |store: &StoreId| format!("{}:{}", number(*store), table.share(*store));
    stores.iter().map(share).collect::<Vec<_>>().join(" ")
}

fn describe(changes: &[Change]) -> String {
    let mut configurations = 0;
    let mut said = String::from("persist");
    for change in changes {
        let _ = match change {
            Change::Configuration(..) | Change::Rebuilt(..) => {
                configurations += 1;
                Ok(())
            }
            Change::Epoch(epoch) => write!(said, " epoch {epoch}"),
            Change::Outdated(promised) => write!(said, " outdated by epoch {promised}"),
            Change::Cluster(_) => write!(said, " cluster"),
            Change::Forget(store) => write!(said, " forget {}", number(*store)),
            Change::Member(store, info) => {
                let ring = match (info.placed, info.drained) {
                    (_, true) => " drained",
                    (true, false) => " on the ring",
                    (false, false) => " off the ring",
                };
                write!(said, " member {}{ring}", number(*store))
            }
        };
    }
    if configurations > 0 {
        let _ = write!(said, " {configurations} configurations");
    }
    said
}

/// Runs a script and writes down the dialogue.
fn perform(script: &str) -> String {
    let mut cast = Cast::new();
    let mut dialogue = String::new();
    for line in script.lines().filter(|line| !line.starts_with('>')) {
        let _ = writeln!(dialogue, "{line}");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for said in cast.run(line) {
            let _ = writeln!(dialogue, "> {said}");
        }
    }
    dialogue
}

fn check(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/membership");
    let path = folder.join(name).with_extension("txt");
    let script = fs::read_to_string(&path).expect("the script");
    let dialogue = perform(&script);
    if env::var_os("UPDATE_SCRIPTS").is_some() {
        fs::write(&path, dialogue).expect("the script is written");
        return;
    }
    assert_eq!(dialogue, script, "{name}: run with UPDATE_SCRIPTS=1 and look at the difference");
}

#[test]
fn a_cluster_begins() {
    check("bootstrap");
}

#[test]
fn a_cluster_begins_with_as_many_as_were_asked_for() {
    check("bootstrap_nodes");
}

#[test]
fn a_leader_that_lost_its_metadata_refuses() {
    check("lost_metadata");
}

#[test]
fn a_leader_with_an_older_copy_of_its_metadata_refuses() {
    check("older_metadata");
}

#[test]
fn stores_that_do_not_belong_are_refused() {
    check("refusals");
}

#[test]
fn stores_join_fail_and_come_back() {
    check("join_and_evict");
}

#[test]
fn a_leader_restarts() {
    check("leader_restart");
}

#[test]
fn nodes_ask_to_go() {
    check("leave");
}

#[test]
fn a_whole_cluster_is_stopped() {
    check("leave_all");
}

#[test]
fn the_number_of_copies_changes() {
    check("copies");
}

#[test]
fn operators_take_stores_out() {
    check("drain");
}

#[test]
fn first_tokens_are_never_used_twice() {
    let mut cast = Cast::new();
    for command in ["leader copies=3 nodes=4", "join 1 2 3 4"] {
        cast.run(command);
    }
    assert_eq!(cast.state.configurations.len(), 1024);
    for (partition, configuration) in cast.state.configurations() {
        let members = &configuration.members;
        let row: Vec<StoreId> = members.iter().map(|member| member.store).collect();
        assert_eq!(row, cast.membership.table().stores(partition));
        let tokens: BTreeSet<u64> = members.iter().map(|member| member.token.0).collect();
        assert_eq!(tokens.len(), 3);
        assert!(tokens.iter().all(|token| token >> 32 == 1 && token & 0xffff_ffff < 1 << 16));
    }
}
