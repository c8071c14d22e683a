//! The shipped Dockerfile and docker-compose.yml, unchanged, as their users use them: up, `nc` in the
//! client's container, more nodes, fewer nodes, killed, frozen and cut off containers, all of them made
//! anew, down and up again. All the while clients on this machine write and read, and what they are
//! told is judged at the end: nothing may be lost, stale or undone.
//!
//! It needs a Docker engine with Compose, and the base images; where one of them is not to be had, it
//! says so and does nothing. The project has a name of its own and is removed at the end, volumes and
//! all, whatever happens; leftovers of a test that was itself killed go at the next start.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::{CheckedLoad, eventually, hold, seed, timed};
use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Keys that each phase of the test adds.
const KEYS: usize = 300;
/// Writes that have to be acknowledged while a fault lasts that is not to stop them.
const WRITES: u64 = 500;
/// How long the leader stands still, or is cut off. Nobody can write meanwhile.
const HELD: Duration = Duration::from_secs(3);

/// A compose project that lives as long as this.
struct Project {
    name: String,
    /// Where clients on this machine reach the leader.
    port: u16,
    /// Every value that was acknowledged.
    stored: BTreeMap<String, String>,
}

impl Project {
    /// A project of this checkout alone, with nothing of an earlier one in it.
    fn new() -> Self {
        let mut hasher = DefaultHasher::new();
        ROOT.hash(&mut hasher);
        let name = format!("hatokuse-test-{:08x}", hasher.finish() >> 32);
        // Free at this moment. It has to stay the same when the container is made anew.
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let project = Self { name, port, stored: BTreeMap::new() };
        project.remove();
        project
    }

    fn compose(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["compose", "--project-name", &self.name]).args(arguments);
        // Free ports on this machine, and no settings of whoever runs the test.
        command.current_dir(ROOT).env("ADMIN_PORT", "0");
        command.env("CLIENT_PORT", self.port.to_string());
        for variable in ["NODES", "COMPOSE_FILE", "COMPOSE_PROFILES"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs a command that must succeed; its output.
    fn run(&self, arguments: &[&str]) -> String {
        succeed(&mut self.compose(arguments))
    }

    /// Everything but the images' layers in the build cache.
    fn remove(&self) {
        let down = ["down", "--volumes", "--remove-orphans", "--rmi", "local", "--timeout", "1"];
        let _ = self.compose(&down).output();
    }

    /// Brings the cluster to so many nodes, and waits until it is well.
    fn up(&self, nodes: usize) {
        let scale = format!("node={nodes}");
        timed(&format!("up with {nodes} nodes"), || {
            self.run(&["up", "--wait", "--wait-timeout", "120", "--scale", &scale])
        });
    }

    /// What the leader answers to these lines, through `nc` in the client's container.
    fn try_ask(&self, lines: &[String]) -> io::Result<Vec<String>> {
        let mut command =
            self.compose(&["exec", "-T", "client", "nc", "-w", "30", "leader", "6000"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut nc = command.spawn()?;
        let text = format!("{}\nQUIT\n", lines.join("\n"));
        let mut stdin = nc.stdin.take().unwrap();
        let sending = thread::spawn(move || stdin.write_all(text.as_bytes()));
        let output = nc.wait_with_output()?;
        // A leader that is away is found out by what it did not answer.
        let _ = sending.join().unwrap();
        let mut replies: Vec<_> = text_of(&output.stdout).lines().map(str::to_owned).collect();
        match replies.pop().as_deref() {
            Some("OK") => Ok(replies),
            _ => Err(io::Error::other(text_of(&output.stderr))),
        }
    }

    fn ask(&self, lines: &[String]) -> Vec<String> {
        self.try_ask(lines).unwrap()
    }

    /// The lines of a listing.
    fn rows(&self, request: &str) -> io::Result<Vec<String>> {
        let mut rows = self.try_ask(&[request.to_owned()])?;
        match rows.pop().as_deref() {
            Some("OK") => Ok(rows),
            other => Err(io::Error::other(format!("`{request}` was answered {other:?}"))),
        }
    }

    /// Waits until so many nodes are live, and every partition serves with all its copies.
    fn await_whole(&self, nodes: usize) {
        let live = format!("Nodes: {nodes} live, 0 suspect, 0 leaving");
        let whole = "1024 serving, 0 under-replicated, 0 unavailable";
        timed(&format!("{nodes} nodes with all copies"), || {
            eventually("a whole cluster", || {
                let status = self.rows("STATUS").map_err(|error| error.to_string())?.join("\n");
                if status.contains(&live) && status.contains(whole) { Ok(()) } else { Err(status) }
            });
        });
    }

    /// The identities of the live nodes.
    fn nodes(&self) -> BTreeSet<String> {
        let rows = self.rows("NODES").unwrap();
        let id = |row: &String| row.split_whitespace().nth(1).unwrap().to_owned();
        rows.iter().map(id).collect()
    }

    /// The containers of a service.
    fn containers(&self, service: &str) -> Vec<String> {
        self.run(&["ps", "--quiet", service]).lines().map(str::to_owned).collect()
    }

    /// The first container of a service.
    fn container(&self, service: &str) -> String {
        self.containers(service).swap_remove(0)
    }

    /// The slots of the nodes' volume: how each is, and whose.
    fn slots(&self) -> Vec<(String, String)> {
        let listed = self.run(&["exec", "-T", "node", "hatokuse", "slots", "ls", "-o", "json"]);
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let text = |slot: &Value, name: &str| slot[name].as_str().unwrap().to_owned();
        let slots = listed["slots"].as_array().unwrap().iter();
        slots.map(|slot| (text(slot, "state"), text(slot, "store"))).collect()
    }

    /// Takes a container off the network, and puts it back with the name that others know.
    fn network(&self, what: &str, container: &str, service: &str) {
        let network = format!("{}_default", self.name);
        let mut arguments = vec!["network", what];
        if what == "connect" {
            arguments.extend(["--alias", service]);
        }
        arguments.extend([network.as_str(), container]);
        docker(&arguments);
    }

    /// How many records each live node holds.
    fn files(&self) -> io::Result<Vec<usize>> {
        let rows = self.rows("FILES")?;
        Ok(rows.iter().map(|row| row.rsplit_once(": ").unwrap().1.parse().unwrap()).collect())
    }

    /// Stores more keys, and overwrites some old ones. Only what was acknowledged counts, and all is.
    fn store(&mut self, phase: &str) {
        let old = self.stored.keys().step_by(7).take(KEYS / 10).cloned();
        let keys: Vec<_> = old.chain((0..KEYS).map(|number| format!("{phase}-{number}"))).collect();
        let value = |key: &String| format!("value of {key} in phase {phase}");
        let lines: Vec<_> = keys.iter().map(|key| format!("SET {key} {}", value(key))).collect();
        let replies = self.ask(&lines);
        assert_eq!(replies.len(), keys.len(), "one reply for each SET");
        for (key, reply) in keys.into_iter().zip(replies) {
            assert!(reply.starts_with("OK"), "SET {key} in phase {phase}: {reply}");
            let value = value(&key);
            self.stored.insert(key, value);
        }
    }

    /// Every acknowledged value is there.
    fn check(&self, when: &str) {
        let gets: Vec<_> = self.stored.keys().map(|key| format!("GET {key}")).collect();
        let replies = self.ask(&gets);
        assert_eq!(replies.len(), gets.len(), "one reply for each GET {when}");
        for ((key, value), reply) in self.stored.iter().zip(replies) {
            assert_eq!(reply, format!("OK {value}"), "GET {key} {when}");
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.compose(&["logs", "--no-color", "--tail", "30"]).output();
            println!("{}", logs.map(|output| text_of(&output.stdout)).unwrap_or_default());
        }
        self.remove();
    }
}

fn docker(arguments: &[&str]) -> String {
    succeed(Command::new("docker").args(arguments))
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn succeed(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (said, complained) = (text_of(&output.stdout), text_of(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}{complained}", output.status);
    said
}

/// Why there is nothing to test here, if that is so.
fn obstacle() -> Option<String> {
    let docker = |arguments: &[&str]| -> Result<Output, String> {
        let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("there is no docker command: {error}"))?;
        if output.status.success() { Ok(output) } else { Err(text_of(&output.stderr)) }
    };
    if let Err(reason) = docker(&["version", "--format", "{{.Server.Version}}"]) {
        return Some(format!("no Docker engine answers: {reason}"));
    }
    if let Err(reason) = docker(&["compose", "version"]) {
        return Some(format!("there is no Compose: {reason}"));
    }
    let missing = |image: &String| docker(&["image", "inspect", image]).is_err();
    base_images().into_iter().filter(missing).find_map(|image| {
        let pulled = docker(&["pull", "--quiet", &image]);
        pulled.err().map(|reason| format!("the base image {image} cannot be had: {reason}"))
    })
}

/// The images that the Dockerfile begins with.
fn base_images() -> BTreeSet<String> {
    let text = fs::read_to_string(Path::new(ROOT).join("Dockerfile")).unwrap();
    let words = text.lines().filter_map(|line| line.strip_prefix("FROM "));
    let words = words.map(|rest| rest.split(' ').next().unwrap().to_owned());
    // The names of stages have no tag.
    let images: BTreeSet<_> = words.filter(|name| name.contains(':')).collect();
    assert!(!images.is_empty(), "the Dockerfile begins with no image");
    images
}

#[test]
fn the_shipped_containers_keep_what_they_acknowledged() {
    if let Some(reason) = obstacle() {
        // Not through `println!`, which is shown only when a test fails.
        let _ = writeln!(io::stderr(), "skipped: {}", reason.trim());
        return;
    }
    let mut cluster = Project::new();
    timed("images built", || cluster.run(&["build", "--quiet"]));
    cluster.up(5);
    cluster.store("first");
    cluster.await_whole(5);
    let five = cluster.nodes();
    assert_eq!(five.len(), 5);
    let address = format!("127.0.0.1:{}", cluster.port);
    let mut load = CheckedLoad::start_at("compose", &address, &mut seed(), |_| ());

    let seven = load.fault("5 to 7 nodes", || more_nodes(&mut cluster, &five));
    load.fault("7 to 4 nodes", || fewer_nodes(&mut cluster, &seven));
    load.fault("a node killed", || a_killed_node(&mut cluster, &seven));
    frozen_containers(&mut cluster, &mut load);
    containers_cut_off(&mut cluster, &mut load);
    another_leader(&mut cluster, &mut load);
    load.fault("down and up", || down_and_up(&mut cluster, &seven));

    load.await_writes(WRITES);
    load.pass();
    cluster.check("in the end");
}

/// Whether all nodes come to hold about as many records.
fn await_even_shares(cluster: &Project) {
    timed("even shares", || {
        eventually("even shares", || match cluster.files() {
            Ok(files) => {
                let fair = files.iter().sum::<usize>() / files.len();
                let even = files.iter().all(|files| fair * 7 / 10 < *files);
                if even { Ok(()) } else { Err(format!("{files:?}")) }
            }
            Err(error) => Err(error.to_string()),
        });
    });
}

/// Newcomers get their share; all that were live.
fn more_nodes(cluster: &mut Project, five: &BTreeSet<String>) -> BTreeSet<String> {
    cluster.up(7);
    cluster.check("with newcomers");
    cluster.store("seven");
    cluster.await_whole(7);
    await_even_shares(cluster);
    cluster.check("with 7 nodes");
    let seven = cluster.nodes();
    assert_eq!(seven.len(), 7);
    assert!(seven.is_superset(five), "{seven:?} {five:?}");
    seven
}

/// Those that stay are who they were.
fn fewer_nodes(cluster: &mut Project, seven: &BTreeSet<String>) {
    cluster.up(4);
    cluster.check("with nodes gone");
    cluster.store("four");
    cluster.await_whole(4);
    cluster.check("with 4 nodes");
    let four = cluster.nodes();
    assert!(four.len() == 4 && four.is_subset(seven), "{four:?} {seven:?}");
    let slots = cluster.slots();
    let running = slots.iter().filter(|(state, _)| state == "running").map(|(_, store)| store);
    // Locks of other containers count: they lie on the volume.
    assert_eq!(running.cloned().collect::<BTreeSet<_>>(), four, "{slots:?}");
    let all = slots.iter().map(|(_, store)| store.clone());
    assert_eq!(all.collect::<BTreeSet<_>>(), *seven, "the others sleep");
}

/// Nobody notices, and it comes back: with its store, or with one that slept since there were more.
fn a_killed_node(cluster: &mut Project, seven: &BTreeSet<String>) {
    let before = cluster.nodes();
    let victim = cluster.container("node");
    docker(&["kill", &victim]);
    cluster.store("killed");
    cluster.check("with a node killed");
    docker(&["start", &victim]);
    cluster.check("with the killed node started");
    let back = eventually("the killed node", || {
        let nodes = cluster.nodes();
        if nodes.len() == 4 { Ok(nodes) } else { Err(nodes) }
    });
    assert!(back.is_subset(seven), "{back:?} {seven:?}");
    println!("the killed node has its old store: {}", back == before);
    cluster.await_whole(4);
}

/// A frozen node holds nobody up, and a frozen leader nobody for longer than it is.
fn frozen_containers(cluster: &mut Project, load: &mut CheckedLoad) {
    let victim = cluster.container("node");
    load.fault_with_writes("a node paused", WRITES, || drop(docker(&["pause", &victim])));
    cluster.check("with a node paused");
    docker(&["unpause", &victim]);
    cluster.await_whole(4);

    let leader = cluster.container("leader");
    load.fault("the leader paused", || {
        docker(&["pause", &leader]);
        hold(HELD);
        docker(&["unpause", &leader]);
    });
    load.await_writes(WRITES);
    cluster.await_whole(4);
    cluster.check("after the pauses");
}

/// Who comes back to the network may have another address there.
fn containers_cut_off(cluster: &mut Project, load: &mut CheckedLoad) {
    let before = cluster.nodes();
    let victim = cluster.container("node");
    load.fault_with_writes("a node cut off", WRITES, || {
        cluster.network("disconnect", &victim, "node");
    });
    cluster.store("cut-off");
    cluster.network("connect", &victim, "node");
    cluster.await_whole(4);
    assert_eq!(cluster.nodes(), before, "it is who it was");

    let leader = cluster.container("leader");
    load.fault("the leader cut off", || {
        cluster.network("disconnect", &leader, "leader");
        hold(HELD);
        cluster.network("connect", &leader, "leader");
    });
    cluster.await_whole(4);
    load.await_writes(WRITES);
    cluster.check("with everybody back on the network");
}

/// Started again, killed, and all containers made anew.
fn another_leader(cluster: &mut Project, load: &mut CheckedLoad) {
    load.fault("the leader started again", || cluster.run(&["restart", "leader"]));
    cluster.await_whole(4);
    cluster.check("with the leader started anew");
    load.fault("the leader killed", || {
        cluster.run(&["kill", "leader"]);
        cluster.run(&["start", "leader"]);
    });
    cluster.await_whole(4);
    cluster.store("after-leader");

    let before = cluster.nodes();
    load.fault("all containers made anew", || {
        let anew = ["up", "--force-recreate", "--wait", "--wait-timeout", "120"];
        cluster.run(&[&anew[..], &["--scale", "node=4"]].concat());
    });
    cluster.await_whole(4);
    assert_eq!(cluster.nodes(), before, "each finds its store again");
    cluster.check("with all containers made anew");
}

/// With as many nodes as there ever were: all slots are taken again.
fn down_and_up(cluster: &mut Project, seven: &BTreeSet<String>) {
    timed("down", || cluster.run(&["down"]));
    let again = ["up", "--wait", "--wait-timeout", "120"];
    timed("up again", || succeed(cluster.compose(&again).env("NODES", "7")));
    cluster.check("after down and up");
    cluster.await_whole(7);
    assert_eq!(cluster.nodes(), *seven, "all stores are found again, and no new one is made");
    assert!(cluster.slots().iter().all(|(state, _)| state == "running"), "{:?}", cluster.slots());
    await_even_shares(cluster);
}
