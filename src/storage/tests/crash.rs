//! Power cuts everywhere: at every operation of the disk, and at every byte of the last frames.

use bytes::Bytes;

use super::model::{Model, Order, Step, shown};
use super::support::*;
use crate::protocol::control::Control;
use crate::storage::disk::simulated::Survival;
use crate::storage::{IoMode, Options, SimulatedDisk, StorageError, Store, Tail};

fn write(key: &str, seq: u64, value: Option<Vec<u8>>) -> Step {
    let order = Order::Write { key: key.into(), version: version(seq), value, install: false };
    Step { partition: P0, order }
}

/// Batches that rotate, checkpoint, compact and recycle within a few hundred operations.
fn script() -> Vec<Vec<Step>> {
    let mut batches =
        vec![vec![Step { partition: P0, order: Order::Control(Control::Begin(TOKEN)) }]];
    for seq in 1..=40u64 {
        let key = format!("k{}", seq % 5);
        let size = if seq % 4 == 0 { 18_000 } else { 200 };
        let other = (seq % 7 == 0).then(|| write("gone", seq + 1000, None));
        let step = write(&key, seq, Some(vec![(seq % 251) as u8; size]));
        batches.push([step].into_iter().chain(other).collect());
    }
    batches
}

fn small(io_mode: IoMode) -> Options {
    Options { io_mode, tail_bytes: 100 << 10, spare_segments: 1, ..options() }
}

/// Runs the script until something fails; says how many batches were acknowledged.
fn run(disk: &SimulatedDisk, options: &Options, script: &[Vec<Step>]) -> usize {
    let opened = Store::open(disk.clone(), KEY, partitions(), options.clone());
    let Ok((mut store, _)) = opened else { return 0 };
    let mut work = |batch: &Vec<Step>| -> Result<(), StorageError> {
        let records: Vec<Bytes> = batch.iter().map(Step::encode).collect();
        store.commit(&records)?;
        Ok(())
    };
    let mut done = 0;
    for batch in script {
        if work(batch).is_err() {
            return done;
        }
        done += 1;
    }
    done
}

/// As [`run`], with maintenance in between.
fn run_maintained(disk: &SimulatedDisk, options: &Options, script: &[Vec<Step>]) -> usize {
    let opened = Store::open(disk.clone(), KEY, partitions(), options.clone());
    let Ok((mut store, _)) = opened else { return 0 };
    for (done, batch) in script.iter().enumerate() {
        let records: Vec<Bytes> = batch.iter().map(Step::encode).collect();
        if store.commit(&records).is_err() {
            return done;
        }
        while let Ok(maintenance) = store.maintain() {
            if !maintenance.more {
                break;
            }
        }
    }
    script.len()
}

/// The store shows the state after some number of batches, at least these.
fn check(
    disk: &SimulatedDisk,
    options: &Options,
    script: &[Vec<Step>],
    at_least: usize,
    what: &str,
) {
    let (store, opened) = open(disk, options.clone());
    assert!(matches!(opened.tail, Tail::Torn | Tail::Clean), "{what}: {:?}", opened.tail);
    assert_eq!(opened.damaged, [], "{what}");
    let shown = shown(&store).unwrap_or_else(|problem| panic!("{what}: {problem}"));
    let mut model = Model::new();
    let mut fits = at_least == 0 && model == shown;
    for (number, batch) in script.iter().enumerate() {
        for step in batch {
            model.apply(step);
        }
        fits |= number + 1 >= at_least && model == shown;
    }
    assert!(fits, "{what}: not the state after {at_least} batches or more");
}

#[test]
fn the_power_may_go_off_at_any_operation() {
    let script = script();
    let options = small(IoMode::Unbuffered);
    let whole = SimulatedDisk::new(1);
    assert_eq!(run_maintained(&whole, &options, &script), script.len());
    let operations = whole.operations();
    assert!(operations > 200, "the script does little: {operations}");
    for cut in 0..operations {
        let disk = SimulatedDisk::new(cut);
        disk.cut_after(cut);
        let done = run_maintained(&disk, &options, &script);
        for (number, survival) in
            [Survival::Nothing, Survival::Everything, Survival::Random, Survival::Random]
                .into_iter()
                .enumerate()
        {
            let after = disk.copy(cut + number as u64 * 100_000);
            after.power_cut_with(survival);
            check(&after, &options, &script, done, &format!("cut at {cut}, {survival:?}"));
        }
    }
}

#[test]
fn every_operation_may_fail_and_the_store_then_stops() {
    use crate::storage::disk::simulated::Operation;
    let script = script();
    let options = small(IoMode::Unbuffered);
    for operation in [Operation::Write, Operation::Sync, Operation::Name] {
        for skip in 0..90 {
            let disk = SimulatedDisk::new(skip);
            disk.fail(operation, skip);
            let done = run_maintained(&disk, &options, &script);
            let after = disk.copy(skip);
            disk.kill();
            after.power_cut();
            check(&disk, &options, &script, done, &format!("{operation:?} {skip} failed, kill"));
            check(&after, &options, &script, done, &format!("{operation:?} {skip} failed, cut"));
        }
    }
}

/// The last frames are cut at every byte: the state is that before, or after, each of them.
fn cut_at_every_byte(io_mode: IoMode, in_flight: usize) {
    let script = &script()[..12];
    let options = small(io_mode);
    let disk = SimulatedDisk::new(3);
    let (mut store, _) = open(&disk, options.clone());
    let certain = script.len() - in_flight;
    for batch in &script[..certain] {
        store.commit(&batch.iter().map(Step::encode).collect::<Vec<_>>()).unwrap();
    }
    store.sync().unwrap();
    let from = store.log.active.offset;
    if io_mode == IoMode::Unbuffered {
        // The write arrives in part, the sync never returns.
        disk.cut_after(1);
    }
    for batch in &script[certain..] {
        let _ = store.commit(&batch.iter().map(Step::encode).collect::<Vec<_>>());
    }
    drop(store);
    let until = from + 4096 * in_flight as u64 + 64;
    for end in from..until {
        let cut = disk.copy(end);
        cut.power_cut_with(Survival::Below(end));
        check(&cut, &options, script, certain, &format!("cut at byte {end}"));
    }
}

#[test]
fn the_last_frame_may_be_cut_at_any_byte() {
    cut_at_every_byte(IoMode::Unbuffered, 1);
}

#[test]
fn several_frames_in_flight_may_be_cut_at_any_byte() {
    cut_at_every_byte(IoMode::Buffered, 2);
}

#[test]
fn several_frames_in_flight_may_arrive_in_any_order() {
    let script = script();
    let options = small(IoMode::Buffered);
    for seed in 0..300 {
        let disk = SimulatedDisk::new(seed);
        let done = run(&disk, &options, &script);
        assert_eq!(done, script.len());
        disk.power_cut();
        // Only what rotation has synced is certain.
        check(&disk, &options, &script, 0, &format!("seed {seed}"));
        // What was served once stays: the tail was settled by the first opening.
        let (store, _) = open(&disk, options.clone());
        let first = shown(&store).unwrap();
        drop(store);
        disk.power_cut();
        let (store, _) = open(&disk, options.clone());
        assert_eq!(shown(&store).unwrap(), first, "seed {seed}");
    }
}
