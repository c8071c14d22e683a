//! The log on a disk that loses power, fails and rots, and the thread in front of it.

use std::sync::mpsc;

use super::local::LocalMetadata;
use super::log::{Found, LogOptions, MetadataLog};
use super::*;
use crate::storage::disk::simulated::{Operation, SimulatedDisk, Survival};
use crate::types::{
    ClusterId, Configuration, ConfigurationVersion, Epoch, IndexKey, Member, PartitionCount,
    PartitionId, StoreId, Token,
};

/// Small enough that a few appends fill it.
const SMALL: LogOptions = LogOptions { log_bytes: 24 << 10 };

type Log = MetadataLog<SimulatedDisk>;

fn open(disk: &SimulatedDisk) -> Result<(Log, Found), MetadataError> {
    MetadataLog::open(disk.clone(), SMALL)
}

fn cluster() -> Change {
    Change::Cluster(Cluster {
        id: ClusterId::from_number(1),
        index_key: IndexKey([2; 16]),
        partitions: PartitionCount::new(64).unwrap(),
        created: 3,
    })
}

fn configuration(partition: u16, version: u64) -> Change {
    let member = |store| Member { store: StoreId::from_number(store), token: Token(version) };
    let members = [member(1), member(2), member(3)].into_iter().collect();
    let version = ConfigurationVersion(version);
    Change::Configuration(PartitionId(partition), Configuration { version, members })
}

/// What a leader does in its life, append by append: an epoch, a cluster, then deaths of nodes that
/// change ever more configurations, some of them over a page.
fn life() -> Vec<Vec<Change>> {
    let info = MemberInfo { address: "node:1".into(), ..MemberInfo::default() };
    let mut appends = vec![
        vec![Change::Epoch(Epoch(1))],
        vec![cluster(), Change::Member(StoreId::from_number(1), info)],
    ];
    for version in 1..9 {
        let count = u16::try_from(version * 8).unwrap();
        appends.push((0..count).map(|p| configuration(p, version)).collect());
        appends.push(vec![Change::Epoch(Epoch(version + 1))]);
    }
    appends
}

/// The state after each of the first appends, from none to all.
fn states(appends: &[Vec<Change>]) -> Vec<State> {
    let mut state = State::default();
    let mut states = vec![state.clone()];
    for append in appends {
        state.apply_all(append).unwrap();
        states.push(state.clone());
    }
    states
}

/// Appends until one fails; says how many were accepted.
fn live(disk: &SimulatedDisk, appends: &[Vec<Change>]) -> usize {
    let Ok((mut log, _)) = open(disk) else { return 0 };
    let accepted = appends.iter().take_while(|append| log.append(append).is_ok()).count();
    if accepted < appends.len() {
        assert!(log.append(&[cluster()]).is_err(), "a failed log accepts nothing");
    }
    accepted
}

/// After a misfortune: what was accepted is there, and perhaps what was being written; and the log
/// goes on from there.
fn check(disk: &SimulatedDisk, accepted: usize, appends: &[Vec<Change>], what: &str) {
    let states = states(appends);
    let (log, _) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    let shown = log.state().clone();
    drop(log);
    disk.power_cut_with(Survival::Nothing);
    let (mut log, found) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(*log.state(), shown, "{what}: what a reopening shows is durable");
    assert_eq!(found, Found::Whole, "{what}");
    let at = states.iter().position(|state| state == log.state());
    let at = at.unwrap_or_else(|| panic!("{what}: a state that never was"));
    assert!(at == accepted || at == accepted + 1, "{what}: {at} of {accepted} accepted");
    for append in &appends[at..] {
        log.append(append).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    drop(log);
    disk.power_cut_with(Survival::Nothing);
    let (log, found) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(Some(log.state()), states.last(), "{what}");
    assert_eq!(found, Found::Whole, "{what}");
}

fn operations_of_a_life() -> u64 {
    let disk = SimulatedDisk::new(0);
    assert_eq!(live(&disk, &life()), life().len());
    disk.operations()
}

#[test]
fn a_power_cut_at_every_operation_loses_nothing_that_was_accepted() {
    let appends = life();
    for cut in 0..=operations_of_a_life() {
        for seed in 0..12 {
            let disk = SimulatedDisk::new(cut * 1000 + seed);
            disk.cut_after(cut);
            let accepted = live(&disk, &appends);
            disk.power_cut();
            check(&disk, accepted, &appends, &format!("cut {cut} seed {seed}"));
        }
    }
}

#[test]
fn a_power_cut_during_recovery_loses_nothing_either() {
    let appends = life();
    for cut in 0..operations_of_a_life() {
        for again in 0..10 {
            let disk = SimulatedDisk::new(cut * 1000 + again);
            disk.cut_after(cut);
            let accepted = live(&disk, &appends);
            // Every second time only the process dies, and leaves what it wrote in memory.
            if again % 2 == 0 {
                disk.power_cut();
            } else {
                disk.kill();
            }
            disk.cut_after(again / 2);
            let _ = open(&disk);
            disk.power_cut();
            check(&disk, accepted, &appends, &format!("cut {cut}, then {again}"));
        }
    }
}

#[test]
fn a_write_or_sync_that_fails_ends_the_log_and_loses_nothing() {
    let appends = life();
    for operation in [Operation::Write, Operation::Sync] {
        for skip in 0..operations_of_a_life() / 2 {
            let disk = SimulatedDisk::new(skip);
            disk.fail(operation, skip);
            let accepted = live(&disk, &appends);
            // The process is started again at once; later the power fails too.
            disk.kill();
            check(&disk, accepted, &appends, &format!("{operation:?} {skip} failed"));
        }
    }
}

#[test]
fn a_full_disk_loses_nothing() {
    let appends = life();
    for kilobytes in 0..70 {
        let disk = SimulatedDisk::new(kilobytes);
        disk.set_capacity(kilobytes << 10);
        let accepted = live(&disk, &appends);
        disk.set_capacity(1 << 30);
        disk.kill();
        check(&disk, accepted, &appends, &format!("{kilobytes} KiB"));
    }
}

#[test]
fn damage_to_what_is_durable_is_never_taken_for_an_interrupted_write() {
    let mut appends = life();
    appends.truncate(7);
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    for append in &appends {
        log.append(append).unwrap();
    }
    log.settle().unwrap();
    drop(log);
    let whole = states(&appends).pop().unwrap();
    let mut damaged = 0;
    for offset in (0..24 << 10).step_by(7) {
        let rotten = disk.copy(offset);
        assert!(rotten.flip("metadata", offset, 0x10));
        rotten.kill();
        match open(&rotten) {
            // Padding, the last and empty frame, or the unused rest.
            Ok((log, _)) => assert_eq!(*log.state(), whole, "offset {offset}"),
            Err(error) => {
                damaged += 1;
                assert!(matches!(error, MetadataError::Damaged { .. }), "{error}");
                assert!(error.to_string().contains("rebuild-metadata"), "{error}");
            }
        }
    }
    assert!(damaged > 200, "{damaged}");
}

#[test]
fn the_file_stays_small_however_many_changes_there_are() {
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[cluster()]).unwrap();
    for version in 1..500 {
        log.append(&[configuration(3, version), configuration(4, version)]).unwrap();
        if version % 5 == 0 {
            log.settle().unwrap();
        }
        // Never longer than what was allocated: growing may fail just when it must not.
        let length = crate::storage::disk::read_whole(&disk, "metadata").unwrap().len();
        assert_eq!(length, (4 << 10) + (24 << 10));
    }
    let state = log.state().clone();
    drop(log);
    assert_eq!(*open(&disk).unwrap().0.state(), state);
}

#[test]
fn a_newer_format_and_another_file_are_refused() {
    use crate::storage::disk::replace;
    let disk = SimulatedDisk::new(1);
    replace(&disk, "metadata", b"something else").unwrap();
    assert!(matches!(open(&disk), Err(MetadataError::Damaged { .. })));
    replace(&disk, "metadata", b"").unwrap();
    assert!(matches!(open(&disk), Err(MetadataError::Damaged { .. })), "an empty file is not new");
}

#[test]
fn a_change_that_must_not_be_changes_nothing() {
    let disk = SimulatedDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    log.append(&[cluster(), configuration(1, 5)]).unwrap();
    let before = log.state().clone();
    let bad = [configuration(2, 1), configuration(1, 5)];
    assert!(matches!(log.append(&bad), Err(MetadataError::Refused(_))));
    assert_eq!(*log.state(), before);
    log.append(&[configuration(1, 6)]).unwrap();
}

// The thread.

fn start(disk: &SimulatedDisk) -> LocalMetadata {
    LocalMetadata::start(disk.clone(), SMALL, ()).unwrap()
}

/// Proposes and waits.
fn propose(metadata: &LocalMetadata, changes: Vec<Change>) -> Result<(), MetadataError> {
    let (tell, told) = mpsc::channel();
    metadata.handle().propose_then(changes, move |outcome| tell.send(outcome).unwrap());
    told.recv().unwrap()
}

#[test]
fn each_proposal_of_a_batch_has_its_own_fate() {
    let disk = SimulatedDisk::new(1);
    let metadata = start(&disk);
    propose(&metadata, vec![cluster()]).unwrap();
    let (tell, told) = mpsc::channel();
    // Of each partition the second proposal is stale, whichever frame it lands in.
    for partition in 0..64 {
        for version in [2, 1] {
            let tell = tell.clone();
            let changes = vec![
                Change::Epoch(Epoch(u64::from(partition) * 2 + 3 - version)),
                configuration(partition, version),
            ];
            metadata.handle().propose_then(changes, move |outcome| {
                tell.send((partition, version, outcome.is_ok())).unwrap();
            });
        }
    }
    drop(tell);
    let fates: Vec<_> = told.iter().collect();
    assert_eq!(fates.len(), 128);
    assert!(fates.iter().all(|(_, version, accepted)| *accepted == (*version == 2)));
    drop(metadata);
    let (log, found) = open(&disk).unwrap();
    assert_eq!(found, Found::Whole);
    assert_eq!(log.state().epoch, Epoch(127));
    assert!(log.state().configurations.iter().all(|now| now.version == ConfigurationVersion(2)));
}

#[test]
fn what_queues_while_the_disk_is_busy_costs_one_sync() {
    let disk = SimulatedDisk::new(1);
    let metadata = start(&disk);
    let (enter, entered) = mpsc::channel();
    let (leave, left) = mpsc::channel::<()>();
    // The first proposal keeps the thread until everything else has queued.
    metadata.handle().propose_then(vec![cluster()], move |_| {
        enter.send(()).unwrap();
        left.recv().unwrap();
    });
    entered.recv().unwrap();
    let before = disk.operations();
    let (tell, told) = mpsc::channel();
    for partition in 0..64 {
        let tell = tell.clone();
        let done = move |outcome: Result<(), MetadataError>| tell.send(outcome.is_ok()).unwrap();
        metadata.handle().propose_then(vec![configuration(partition, 1)], done);
    }
    drop(tell);
    leave.send(()).unwrap();
    assert_eq!(told.iter().filter(|accepted| *accepted).count(), 64);
    assert_eq!(disk.operations() - before, 2, "one write and one sync");
}

#[test]
fn everybody_hears_of_a_failure_and_nothing_is_accepted_after_it() {
    let disk = SimulatedDisk::new(1);
    let metadata = start(&disk);
    propose(&metadata, vec![cluster()]).unwrap();
    disk.fail(Operation::Sync, 0);
    let failed = propose(&metadata, vec![configuration(1, 1)]);
    assert!(matches!(failed, Err(MetadataError::Io { .. })), "{failed:?}");
    let later = propose(&metadata, vec![configuration(1, 2)]);
    assert!(matches!(later, Err(MetadataError::Failed)), "{later:?}");
    let handle = metadata.handle();
    drop(metadata);
    let (tell, told) = mpsc::channel();
    handle.propose_then(Vec::new(), move |outcome| tell.send(outcome).unwrap());
    assert!(matches!(told.recv().unwrap(), Err(MetadataError::Closed)));
}

#[tokio::test]
async fn a_directory_belongs_to_one_leader_and_remembers_its_epochs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leader");
    let mut metadata = LocalMetadata::open(&path).unwrap();
    assert_eq!(metadata.found(), Found::Nothing);
    assert_eq!(metadata.begin_epoch().await.unwrap(), Epoch(1));
    metadata.handle().propose(vec![cluster()]).await.unwrap();
    let second = LocalMetadata::open(&path).unwrap_err().to_string();
    assert!(second.contains("in use by another process"), "{second}");
    drop(metadata);
    let mut metadata = LocalMetadata::open(&path).unwrap();
    assert_eq!(metadata.found(), Found::Whole);
    assert!(metadata.state().cluster.is_some());
    assert_eq!(metadata.begin_epoch().await.unwrap(), Epoch(2));
    assert_eq!(metadata.state().epoch, Epoch(2));
}
