//! What is left when something was lost for good: the leader's disk, all copies of a partition, a
//! byte on a disk. Real processes, real files.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{Cluster, LineClient, eventually, operator, text, timed};

fn value(number: usize) -> String {
    format!("the value of key {number} is worth keeping")
}

fn store(client: &mut LineClient, numbers: std::ops::Range<usize>) {
    let lines: Vec<_> = numbers.map(|n| format!("SET key-{n} {}", value(n))).collect();
    for (line, reply) in lines.iter().zip(client.pipeline(&lines)) {
        assert!(reply.starts_with("OK"), "{line}: {reply}");
    }
}

fn check(client: &mut LineClient, numbers: std::ops::Range<usize>) {
    let lines: Vec<_> = numbers.clone().map(|n| format!("GET key-{n}")).collect();
    for (number, reply) in numbers.zip(client.pipeline(&lines)) {
        assert_eq!(reply, format!("OK {}", value(number)), "key-{number}");
    }
}

fn audit(cluster: &Cluster) -> String {
    fs::read_to_string(cluster.directory().join("leader/audit.log")).unwrap_or_default()
}

/// The leader, its disk lost, running again, and refusing to serve.
fn lose_the_leaders_disk(cluster: &mut Cluster) {
    cluster.kill_leader();
    fs::remove_dir_all(cluster.directory().join("leader")).unwrap();
    cluster.start_leader();
    let mut client = cluster.connect();
    let reply = eventually("a leader that refuses", || {
        let reply = client.ask("GET key-1");
        if reply.contains("rebuild-metadata") { Ok(reply) } else { Err(reply) }
    });
    assert!(reply.starts_with("ERROR UNAVAILABLE"), "{reply}");
    let reply = client.ask("SET key-1 x");
    assert!(
        reply.starts_with("ERROR UNAVAILABLE") && reply.contains("rebuild-metadata"),
        "{reply}"
    );
    let status = client.rows("STATUS").join("\n");
    assert!(status.contains("Not serving: ") && status.contains("rebuild-metadata"), "{status}");
}

#[test]
fn a_leader_that_lost_its_disk_gets_its_metadata_back_from_the_nodes() {
    let mut cluster = Cluster::start(4, 3);
    store(&mut cluster.connect(), 0..2000);
    // Sets that have changed since the beginning.
    cluster.kill_node(3);
    store(&mut cluster.connect(), 1000..3000);
    cluster.start_node(3);
    cluster.await_health();

    // One node stays away: what it knows might be newer than what all others do.
    cluster.kill_node(2);
    lose_the_leaders_disk(&mut cluster);
    let refused = operator(&cluster, &["rebuild-metadata", "--yes", "--wait", "3s"]);
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("is missing") && said.contains("--accept-missing"), "{said}");
    assert_eq!(audit(&cluster), "", "nothing was done");

    cluster.start_in_doubt(2);
    let made = timed("metadata made anew", || {
        operator(&cluster, &["rebuild-metadata", "--yes", "--wait", "60s"])
    });
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    assert!(audit(&cluster).contains(r#""decision":"rebuild-metadata""#), "{}", audit(&cluster));
    cluster.await_node(2);
    cluster.await_health();
    check(&mut cluster.connect(), 0..3000);
    store(&mut cluster.connect(), 3000..4000);
    let again = operator(&cluster, &["rebuild-metadata", "--yes"]);
    assert!(text(&again).contains("there is nothing to be made anew"), "{}", text(&again));

    // It is metadata like any other.
    cluster.kill_all();
    cluster.start_all();
    check(&mut cluster.connect(), 0..4000);
}

#[test]
fn all_copies_are_given_up_only_when_an_operator_says_so() {
    let mut cluster = Cluster::start(3, 2);
    store(&mut cluster.connect(), 0..1000);
    let nothing = operator(&cluster, &["force-recover", "--yes-lose-data"]);
    assert_eq!(nothing.status.code(), Some(0), "{}", text(&nothing));
    assert!(text(&nothing).contains("no partition has lost all its copies"), "{}", text(&nothing));

    // Two of three disks are lost at once: about a third of the partitions had both copies there.
    cluster.kill_node(0);
    cluster.kill_node(1);
    cluster.start_without_data(0);
    cluster.start_without_data(1);
    cluster.await_status("partitions without a copy", |status| {
        status.live == 3 && status.unavailable > 100
    });
    let asked = operator(&cluster, &["force-recover"]);
    assert_eq!(asked.status.code(), Some(1), "{}", text(&asked));
    assert!(text(&asked).contains("begins empty"), "{}", text(&asked));
    assert_eq!(audit(&cluster), "");

    let forced = operator(&cluster, &["force-recover", "--yes-lose-data"]);
    assert_eq!(forced.status.code(), Some(0), "{}", text(&forced));
    assert!(audit(&cluster).contains(r#""decision":"force-recover""#));
    cluster.await_health();
    let mut client = cluster.connect();
    let lines: Vec<_> = (0..1000).map(|n| format!("GET key-{n}")).collect();
    let replies = client.pipeline(&lines);
    let kept = replies.iter().filter(|reply| reply.starts_with("OK")).count();
    for (number, reply) in replies.iter().enumerate() {
        let right = *reply == format!("OK {}", value(number));
        assert!(right || reply.starts_with("ERROR NOT_FOUND"), "key-{number}: {reply}");
    }
    println!("{kept} of 1000 keys had a copy on the disk that was left");
    assert!((500..900).contains(&kept), "{kept} of 1000 keys are left");
    store(&mut client, 0..1000);
    cluster.kill_all();
    cluster.start_all();
    check(&mut cluster.connect(), 0..1000);
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Starts the leader, its directory replaced by what is in this one.
fn put_back(cluster: &mut Cluster, copy: &Path) {
    let data = cluster.directory().join("leader");
    fs::remove_dir_all(&data).unwrap();
    copy_files(copy, &data);
    cluster.start_leader();
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn await_refusal(cluster: &Cluster) {
    let mut client = cluster.connect();
    let reply = eventually("a leader that refuses", || {
        let reply = client.ask("GET key-1");
        if reply.contains("rebuild-metadata") { Ok(reply) } else { Err(reply) }
    });
    assert!(reply.starts_with("ERROR UNAVAILABLE"), "{reply}");
    let reply = client.ask("SET key-1 x");
    assert!(reply.starts_with("ERROR UNAVAILABLE"), "{reply}");
    let status = client.rows("STATUS").join("\n");
    assert!(status.contains("Not serving: ") && status.contains("is an older copy"), "{status}");
    let ready = get(cluster.admin, "/readyz");
    assert!(ready.contains("503") && ready.contains("is an older copy"), "{ready}");
    assert!(cluster.leader_log().contains("does not serve"), "{}", cluster.leader_log());
}

#[test]
fn an_older_copy_of_the_leaders_directory_is_not_served_by_and_nothing_is_lost() {
    let mut cluster = Cluster::start(4, 2);
    store(&mut cluster.connect(), 0..500);
    cluster.stop_leader();
    let (data, copies) = (cluster.directory().join("leader"), tempfile::tempdir().unwrap());
    let [older, newest] = ["older", "newest"].map(|name| copies.path().join(name));
    copy_files(&data, &older);
    // The cluster goes on: one epoch, later two, in which the sets change as well.
    cluster.start_leader();
    cluster.await_health();
    store(&mut cluster.connect(), 250..1000);

    // In the copy's next epoch the cluster has been already: what is written in it now would lie
    // below what is there.
    cluster.kill_leader();
    copy_files(&data, &newest);
    put_back(&mut cluster, &older);
    await_refusal(&cluster);
    cluster.kill_leader();
    put_back(&mut cluster, &newest);
    cluster.await_health();
    check(&mut cluster.connect(), 0..1000);

    cluster.kill_node(0);
    store(&mut cluster.connect(), 500..1500);
    cluster.start_node(0);
    cluster.await_health();
    cluster.kill_leader();
    // Each start of it takes an epoch, until those of the nodes are behind it.
    put_back(&mut cluster, &older);
    for _ in 0..4 {
        await_refusal(&cluster);
        cluster.kill_leader();
        cluster.start_leader();
    }
    await_refusal(&cluster);
    let made = operator(&cluster, &["rebuild-metadata", "--yes", "--wait", "60s"]);
    assert_eq!(made.status.code(), Some(0), "{}", text(&made));
    cluster.await_health();
    check(&mut cluster.connect(), 0..1500);
    store(&mut cluster.connect(), 1000..2000);
    cluster.kill_all();
    cluster.start_all();
    check(&mut cluster.connect(), 0..2000);
}

/// The segments of a node's log.
fn segments(data: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(data.join("slots/0001")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().contains("seg")).collect()
}

/// In how many places of a node's log this text lies.
fn places(data: &Path, text: &str) -> usize {
    let count = |path: &PathBuf| memchr::memmem::find_iter(&fs::read(path).unwrap(), text).count();
    segments(data).iter().map(count).sum()
}

/// Flips a bit in each of them.
fn damage(data: &Path, text: &str) {
    for path in segments(data) {
        let bytes = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for at in memchr::memmem::find_iter(&bytes, text) {
            file.write_all_at(&[bytes[at] ^ 1], at as u64).unwrap();
        }
    }
}

/// Keys that share their partition with another one: two of each of so many partitions.
fn pairs(client: &mut LineClient, keys: usize, pairs: usize) -> Vec<[usize; 2]> {
    let mut seen = BTreeMap::new();
    let mut found = Vec::new();
    for key in 0..keys {
        let partition = client.rows(&format!("WHERE key-{key}")).remove(0);
        match seen.remove(&partition) {
            Some(other) => found.push([other, key]),
            None => drop(seen.insert(partition, key)),
        }
    }
    assert!(found.len() >= pairs, "{} pairs", found.len());
    found.truncate(pairs);
    found
}

#[test]
fn partitions_are_copied_although_no_source_can_read_all_of_its_records() {
    let mut cluster = Cluster::start(3, 3);
    let mut client = cluster.connect();
    store(&mut client, 0..300);
    // Of some partitions each of two copies has a record that it cannot read, cold ones: nobody asks
    // for them. The third copy is lost.
    let pairs = pairs(&mut client, 300, 8);
    let data = [0, 1].map(|node| cluster.node_data(node));
    for pair in &pairs {
        for (data, key) in data.iter().zip(pair) {
            damage(data, &value(*key));
            assert_eq!(places(data, &value(*key)), 0);
        }
    }
    cluster.kill_node(2);
    cluster.await_status("a lost copy", |status| status.live == 2);
    cluster.start_without_data(2);
    timed("whole although records were damaged", || cluster.await_health());
    let there = |node: usize, key: usize| places(&cluster.node_data(node), &value(key)) > 0;
    for [first, second] in &pairs {
        eventually("both records on the copy, and one anew on its source", || {
            let found = [there(2, *first), there(2, *second), there(0, *first), there(1, *second)];
            let [one, other, source, next] = found;
            if one && other && (source || next) { Ok(()) } else { Err(found) }
        });
    }
    check(&mut cluster.connect(), 0..300);
    cluster.kill_all();
    cluster.start_all();
    check(&mut cluster.connect(), 0..300);
}

#[test]
fn a_record_that_no_copy_can_read_is_named_until_it_is_overwritten() {
    let mut cluster = Cluster::start(2, 2);
    store(&mut cluster.connect(), 0..100);
    damage(&cluster.node_data(0), &value(7));
    // The leader remembers what was written last, but not when it is started again.
    cluster.kill_leader();
    cluster.start_leader();
    cluster.await_health();
    cluster.kill_node(1);
    cluster.start_without_data(1);
    let mut client = cluster.connect();
    let mut said = || client.rows("STATUS").join("\n");
    eventually("a partition that cannot be copied", || {
        let said = said();
        let named = said.contains("Unreadable: 1 keys") && said.contains("1 under-replicated");
        if named { Ok(()) } else { Err(said) }
    });
    let reply = client.ask("GET key-7");
    assert!(reply.starts_with("ERROR UNAVAILABLE"), "{reply}");
    let reply = client.ask(&format!("SET key-7 {}", value(7)));
    assert!(reply.starts_with("OK"), "{reply}");
    cluster.await_health();
    assert!(!client.rows("STATUS").join("\n").contains("Unreadable"));
    check(&mut client, 0..100);
}

#[test]
fn a_flipped_bit_is_not_served_and_the_record_is_written_anew_from_another_copy() {
    let mut cluster = Cluster::start(3, 3);
    let mut client = cluster.connect();
    store(&mut client, 0..200);
    // Two of three copies of every tenth key cannot be read any more.
    let damaged = || (0..200).step_by(10).map(value);
    let data = [0, 1].map(|node| cluster.node_data(node));
    let whole = |node: usize| damaged().filter(|text| places(&data[node], text) > 0).count();
    for (node, data) in data.iter().enumerate() {
        assert_eq!(whole(node), 20);
        damaged().for_each(|text| damage(data, &text));
        assert_eq!(whole(node), 0);
    }
    // A leader that has just started remembers none of them, and asks the copies.
    cluster.kill_leader();
    cluster.start_leader();
    cluster.await_health();
    check(&mut cluster.connect(), 0..200);
    for node in 0..2 {
        // Those that were asked for: of each key, one copy is asked first.
        let anew = || if whole(node) > 0 { Ok(()) } else { Err("none") };
        eventually("records written anew", anew);
    }
    // What cannot be read back when a store opens is no copy any more, until it is filled anew.
    cluster.kill_all();
    cluster.start_all();
    check(&mut cluster.connect(), 0..200);
    for node in 0..2 {
        eventually("whole copies", || match whole(node) {
            20 => Ok(()),
            fewer => Err(fewer),
        });
    }
}
