//! Disks that lose everything, return wrong bytes or are full, under a load of which every answer is
//! judged. `HATOKUSE_SEED` chooses the same places again.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{
    CheckedLoad, Cluster, LineClient, Numbers, Options, eventually, operator, seed, text,
};
use memchr::memmem;

/// The files of a store whose names begin so, with what is in them.
fn files(cluster: &Cluster, node: usize, prefix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let slot = cluster.node_data(node).join("slots/0001");
    let paths = fs::read_dir(slot).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(prefix) && !name.contains("tmp")
    };
    let read = |path: PathBuf| fs::read(&path).ok().map(|bytes| (path, bytes));
    let mut files: Vec<_> = paths.filter(named).filter_map(read).collect();
    files.sort();
    files
}

/// A place whose byte is not zero: in use, or used once.
fn used_place(bytes: &[u8], numbers: &mut Numbers) -> Option<usize> {
    let end = bytes.iter().rposition(|byte| *byte != 0)? + 1;
    let from = usize::try_from(numbers.below(end as u64)).unwrap();
    (from..end).find(|place| bytes[*place] != 0)
}

/// Flips a bit of one byte of a file.
fn flip(path: &Path, bytes: &[u8], place: usize) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[place] ^ 0x10], place as u64).unwrap();
    println!("flipped a bit of byte {place} of {}", path.display());
}

/// Where a byte is flipped.
#[derive(Clone, Copy, Debug)]
enum Spot {
    /// Where a value lies that was written before, in a segment that is full.
    SealedValue,
    /// Anywhere in a segment that is full.
    Sealed,
    /// Where a value lies that was written just now, in the segment that is being written.
    NewestValue,
    /// The last byte that was written.
    Last,
    /// Anywhere in a checkpoint.
    Checkpoint,
    /// Anywhere in the root of the log.
    Root,
}

impl Spot {
    const ALL: [Self; 6] = [
        Self::SealedValue,
        Self::Sealed,
        Self::NewestValue,
        Self::Last,
        Self::Checkpoint,
        Self::Root,
    ];

    /// What the node says of it when it opens its store. Nothing is certain where the byte may be
    /// one that was used before, or of a write that looks as if it had been interrupted.
    fn noticed(self) -> &'static str {
        match self {
            Self::SealedValue | Self::NewestValue | Self::Root => "the log is damaged",
            Self::Checkpoint => "checkpoints are damaged",
            Self::Sealed | Self::Last => "the store is open",
        }
    }
}

/// Flips a byte of a store that does not run. `old` and `new` are values it holds, of which only
/// the new one lies in its newest segment.
fn damage(cluster: &Cluster, node: usize, spot: Spot, old: &str, new: &str, numbers: &mut Numbers) {
    let small = match spot {
        Spot::Checkpoint => files(cluster, node, "checkpoint-"),
        Spot::Root => files(cluster, node, "root"),
        _ => Vec::new(),
    };
    if !small.is_empty() {
        let some = usize::try_from(numbers.below(small.len() as u64)).unwrap();
        let (path, bytes) = &small[some];
        return flip(path, bytes, used_place(bytes, numbers).unwrap());
    }
    let segments = files(cluster, node, "segment-");
    let find = |text: &str| {
        let found = |bytes: &Vec<u8>| memmem::rfind(bytes, text.as_bytes());
        segments.iter().find_map(|(path, bytes)| Some((path, bytes, found(bytes)?))).unwrap()
    };
    let (newest, newest_bytes, new_place) = find(new);
    match spot {
        Spot::NewestValue => flip(newest, newest_bytes, new_place),
        Spot::Last => {
            let last = newest_bytes.iter().rposition(|byte| *byte != 0).unwrap();
            flip(newest, newest_bytes, last);
        }
        Spot::SealedValue => {
            let (path, bytes, place) = find(old);
            assert_ne!(path, newest, "segments were to be filled meanwhile");
            flip(path, bytes, place);
        }
        _ => {
            let sealed: Vec<_> = segments
                .iter()
                .filter(|(path, bytes)| path != newest && bytes.iter().any(|byte| *byte != 0))
                .collect();
            let some = usize::try_from(numbers.below(sealed.len() as u64)).unwrap();
            let (path, bytes) = sealed[some];
            flip(path, bytes, used_place(bytes, numbers).unwrap());
        }
    }
}

/// Stores a value of its own under each of many keys, so that each node has some of them.
fn mark(client: &mut LineClient, round: &str) {
    for number in 0..40 {
        let reply = client.ask(&format!("SET mark-{round}-{number} {}", marked(round, number)));
        assert!(reply.starts_with("OK"), "{reply}");
    }
}

fn marked(round: &str, number: usize) -> String {
    format!("the mark {number} of round {round} is worth keeping")
}

fn check_marks(client: &mut LineClient, round: &str) {
    for number in 0..40 {
        let reply = client.ask(&format!("GET mark-{round}-{number}"));
        assert_eq!(reply, format!("OK {}", marked(round, number)));
    }
}

/// Waits until what a node writes now goes into another segment than what it wrote then.
fn await_sealed(cluster: &Cluster, node: usize, mark: &str) {
    let used = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap_or_default();
    let segments = || files(cluster, node, "segment-");
    let holds = |bytes: &[u8]| memmem::find(bytes, mark.as_bytes()).is_some();
    eventually("a segment that is full", || {
        let segments = segments();
        let (_, full) = segments.iter().find(|(_, bytes)| holds(bytes)).ok_or("no mark")?;
        // Another one is begun when the next record does not fit any more.
        let begun = segments.iter().filter(|(_, bytes)| used(bytes) > 0).count();
        if used(full) > full.len() - (64 << 10) && begun > 1 { Ok(()) } else { Err("room") }
    });
}

#[test]
fn a_byte_flipped_in_a_store_is_noticed_and_put_right() {
    let mut numbers = seed();
    let mut cluster = Cluster::start_with(Options::new(4, 3).small_segments());
    let mut load = CheckedLoad::start_with("flipped", &cluster, &mut numbers, |options| {
        options.value_bytes = 2000;
    });
    for (round, spot) in Spot::ALL.into_iter().enumerate() {
        let (node, old, new) = (round % 4, format!("{round}-old"), format!("{round}-new"));
        mark(&mut cluster.connect(), &old);
        // One of so many lies on every node.
        let on_node = |round: &str| {
            let all = (0..40).map(|number| marked(round, number));
            let mut held = all.filter(|text| {
                let segments = files(&cluster, node, "segment-");
                segments.iter().any(|(_, bytes)| memmem::find(bytes, text.as_bytes()).is_some())
            });
            held.next().expect("a mark on the node")
        };
        let old_text = on_node(&old);
        await_sealed(&cluster, node, &old_text);
        eventually("a checkpoint", || match files(&cluster, node, "checkpoint-").len() {
            0 => Err("none"),
            _ => Ok(()),
        });
        mark(&mut cluster.connect(), &new);
        let new_text = on_node(&new);
        load.fault_with_writes(format!("node {node} killed, {spot:?} flipped"), 200, || {
            cluster.kill_node(node);
            damage(&cluster, node, spot, &old_text, &new_text, &mut numbers);
            let before = cluster.node_log(node).len();
            cluster.start_node(node);
            let log = cluster.node_log(node);
            assert!(log[before..].contains(spot.noticed()), "{spot:?}: {}", &log[before..]);
        });
        load.await_recovery(&cluster);
    }
    load.finish(&cluster);
    // Nobody remembers anything: now the copies are asked.
    cluster.kill_leader();
    cluster.start_leader();
    cluster.await_health();
    for round in 0..Spot::ALL.len() {
        check_marks(&mut cluster.connect(), &format!("{round}-old"));
        check_marks(&mut cluster.connect(), &format!("{round}-new"));
    }
}

/// That a load would notice: the one node is put back to what it was before, which nothing protects
/// from, and forgets what it acknowledged.
#[test]
fn a_loss_that_nothing_protects_from_is_seen_by_the_judge() {
    let mut numbers = seed();
    let mut cluster = Cluster::start(1, 1);
    let (data, kept) = (cluster.node_data(0), cluster.directory().join("kept"));
    cluster.stop_node(0);
    assert!(Command::new("cp").arg("-a").args([&data, &kept]).status().unwrap().success());
    cluster.start_node(0);
    cluster.await_health();
    let mut load = CheckedLoad::start("seen", &cluster, &mut numbers);
    load.fault_with_writes("everything killed, an old directory put back", 200, || {
        cluster.kill_all();
        fs::remove_dir_all(&data).unwrap();
        fs::rename(&kept, &data).unwrap();
        cluster.start_all();
    });
    let (_, verdict) = load.judge();
    assert!(verdict.lost() > 0, "{verdict}");
}

/// Makes the leader's metadata anew, from what the nodes know.
fn rebuild(cluster: &mut Cluster) {
    let _ = fs::remove_dir_all(cluster.directory().join("leader"));
    cluster.start_leader();
    let made = operator(cluster, &["rebuild-metadata", "--yes", "--wait", "60s"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
}

#[test]
fn a_leader_whose_metadata_is_damaged_or_lost_serves_nothing_before_it_is_made_anew() {
    let mut numbers = seed();
    let mut cluster = Cluster::start(4, 3);
    let mut load = CheckedLoad::start("metadata", &cluster, &mut numbers);
    let metadata = cluster.directory().join("leader/metadata");
    // Sets that have changed: more than the beginning is in the metadata.
    load.fault("kill -9 of node 3", || {
        cluster.kill_node(3);
        load_goes_on(&cluster);
        cluster.start_node(3);
    });
    load.await_recovery(&cluster);
    load.fault("the leader killed, a byte of its metadata flipped, made anew", || {
        cluster.kill_leader();
        let bytes = fs::read(&metadata).unwrap();
        // The last frames may be writes that were interrupted: without them it starts.
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let before = &bytes[..used - (2 << 12)];
        for _ in 0..4 {
            fs::write(&metadata, &bytes).unwrap();
            flip(&metadata, &bytes, used_place(before, &mut numbers).unwrap());
            let log = cluster.start_leader_in_vain();
            assert!(log.contains("damaged"), "{log}");
        }
        rebuild(&mut cluster);
    });
    load.await_recovery(&cluster);
    load.fault("the leader and a node killed, the leader's disk lost, made anew", || {
        cluster.kill_node(1);
        cluster.kill_leader();
        cluster.start_in_doubt(1);
        rebuild(&mut cluster);
        cluster.await_node(1);
    });
    load.finish(&cluster);
}

/// Waits for a write that the leader takes, whatever else happens.
fn load_goes_on(cluster: &Cluster) {
    let reply = cluster.connect().ask("SET goes on");
    assert!(reply.starts_with("OK"), "{reply}");
}

/// A file system in memory. It is gone when this is dropped.
#[derive(Debug)]
struct Tmpfs(PathBuf);

impl Tmpfs {
    const MEBIBYTES: usize = 64;

    /// Where this may not be done, says why.
    fn mount(at: PathBuf) -> Result<Self, String> {
        fs::create_dir_all(&at).unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={}m", Self::MEBIBYTES), "tmpfs"]);
        let output = command.arg(&at).output().map_err(|error| error.to_string())?;
        if output.status.success() { Ok(Self(at)) } else { Err(text(&output)) }
    }

    /// Fills it to the last byte with a file that is not of the store. Returns the file.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("foreign");
        let mut file = File::create(&path).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
        path
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_again() {
    let mut numbers = seed();
    let mut options = Options::new(3, 3).small_segments();
    // Deletes, orders and the checkpoints of all partitions take turns in it.
    options = options.with("HATOKUSE_STORAGE__RESERVE_BYTES", "24MiB");
    let mut cluster = Cluster::start_with(options);
    let small = match Tmpfs::mount(cluster.node_data(3)) {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no tmpfs can be mounted here: {why}"),
    };
    cluster.add_node();
    cluster.await_health();
    let mut load = CheckedLoad::start("full", &cluster, &mut numbers);

    let mut client = cluster.connect();
    load.fault("a tmpfs of 64 MiB filled by clients, which then delete", || {
        let value = numbers.text(200_000);
        let stored = (0..1000).take_while(|number| {
            let reply = client.ask(&format!("SET bulk-{number} {value}"));
            assert!(reply.starts_with("OK") || reply.starts_with("ERROR DISK_FULL"), "{reply}");
            reply.starts_with("OK")
        });
        let stored = stored.count();
        assert!((50..1000).contains(&stored), "{stored} values of 200 kB fit into 64 MiB");
        assert_eq!(client.ask(&format!("GET bulk-{}", stored - 1)), format!("OK {value}"));
        (0..stored).for_each(|number| assert_eq!(client.ask(&format!("DEL bulk-{number}")), "OK"));
        eventually("room for the value that was refused", || {
            let reply = client.ask(&format!("SET bulk-{stored} {value}"));
            if reply == "OK" { Ok(()) } else { Err(reply) }
        });
    });
    load.await_recovery(&cluster);

    load.fault("a tmpfs of 64 MiB filled by somebody else, and emptied", || {
        let foreign = small.fill();
        eventually("a write that is refused", || {
            let number = numbers.below(1000);
            let reply = client.ask(&format!("SET refused-{number} v"));
            if reply.starts_with("ERROR DISK_FULL") { Ok(()) } else { Err(reply) }
        });
        common::hold(std::time::Duration::from_secs(3));
        fs::remove_file(foreign).unwrap();
    });
    load.finish(&cluster);
}
