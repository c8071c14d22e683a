//! The index of one partition: its entries, and the state of its membership.
//!
//! Everything here is a function of the log's prefix: [`PartitionIndex::apply`] runs when a frame
//! has become durable, and again when a reopened store replays it. Only the watermark that was
//! heard and not yet logged is volatile.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use super::change::{Carried, What, Write};
use super::digest::{Digest, Sums, share};
use super::entry::{Entry, MAX_EPOCHS, ShortVersion, table_hash};
use super::guards::{Guard, Guards};
use super::recent::Recent;
use super::usage::Usage;
use crate::protocol::control::Control;
use crate::types::{Configuration, Epoch, IndexKey, KeyHash, Token, Version};

/// A table with room for so many entries is not made smaller.
const SMALL_TABLE: usize = 16;

/// What a store knows of its place in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// The admission under which the store holds the partition; none if it does not.
    pub token: Option<Token>,
    /// A copy is being filled: the store has no authority yet.
    pub shadow: bool,
    /// Everything at or below it is settled: the highest that was logged or heard.
    pub watermark: Version,
    /// Tombstones at or below it are gone, and writes at or below it are not applied.
    pub garbage_floor: Version,
    /// The latest durable configuration that the leader told.
    pub configuration: Option<Configuration>,
}

/// How many records a partition has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live records.
    pub records: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Old records for which nobody has vouched, dead ones included.
    pub unvouched: u64,
    /// About how many bytes all of these take on the disk.
    pub bytes: u64,
}

impl Counts {
    fn of(&mut self, entry: &Entry) -> &mut u64 {
        if !entry.is_vouched() {
            &mut self.unvouched
        } else if entry.is_tombstone() {
            &mut self.tombstones
        } else {
            &mut self.records
        }
    }

    fn add(&mut self, entry: &Entry) {
        *self.of(entry) += 1;
        self.bytes += u64::from(entry.place().length);
    }

    fn remove(&mut self, entry: &Entry) {
        *self.of(entry) -= 1;
        self.bytes = self.bytes.saturating_sub(u64::from(entry.place().length));
    }
}

/// A version of a key, without the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Summary {
    /// The key.
    pub key_hash: KeyHash,
    /// The version.
    pub version: Version,
    /// The record's checksum.
    pub checksum: u32,
}

/// What applying needs from outside the partition.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    pub key: &'a IndexKey,
    pub guards: Guards,
    pub usage: &'a mut Usage,
}

/// The index of one partition.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartitionIndex {
    pub(super) table: HashTable<Entry>,
    pub(super) epochs: Vec<Epoch>,
    /// The membership as logged.
    pub(super) membership: Membership,
    pub(super) sums: Sums,
    pub(super) counts: Counts,
    heard: Version,
    recent: Recent,
}

impl PartitionIndex {
    /// An index from the parts that a checkpoint keeps.
    pub(super) fn from_parts(
        membership: Membership,
        epochs: Vec<Epoch>,
        sums: Sums,
        entries: impl ExactSizeIterator<Item = Entry>,
        usage: &mut Usage,
    ) -> Self {
        let table = HashTable::with_capacity(entries.len());
        let mut index = Self { table, epochs, membership, sums, ..Self::default() };
        for entry in entries {
            usage.take(entry.place());
            index.counts.add(&entry);
            index.remember(&entry);
            index.table.insert_unique(entry.table_hash(), entry, Entry::table_hash);
        }
        index
    }

    /// Carries out what a record asks for.
    pub(crate) fn apply(&mut self, what: &What, context: &mut Context<'_>) {
        match what {
            What::Write(write) if write.carried == Carried::Move => self.relocate(write, context),
            What::Write(write) => self.write(write, context),
            What::Control(control) => self.control(control, context),
        }
    }

    fn control(&mut self, control: &Control, context: &mut Context<'_>) {
        match control {
            Control::Promise(_) => {}
            Control::Configuration(new) => self.configure(new),
            Control::Watermark(version) => {
                self.membership.watermark = self.membership.watermark.max(*version);
                self.recent.trim(self.membership.watermark);
            }
            Control::Begin(token) => self.begin(*token, context),
            Control::Start(token) => {
                self.doubt_all();
                self.membership.token = Some(*token);
                self.membership.shadow = true;
            }
            Control::Vouch { key_hash, version } => self.vouch(*key_hash, *version, context),
            Control::Finish(token) => self.finish(*token, context),
            Control::Remove(_) => {
                self.clear(context.usage);
                self.membership.token = None;
                self.membership.shadow = false;
            }
            Control::GarbageFloor(version) => self.raise_floor(*version, context),
            Control::Adopt(token) => self.adopt(*token, context),
            Control::Forget { key_hash, version } => self.forget(*key_hash, *version, context),
        }
    }

    fn configure(&mut self, new: &Configuration) {
        let known = self.membership.configuration.as_ref();
        if known.is_none_or(|known| known.version < new.version) {
            self.membership.configuration = Some(new.clone());
        }
    }

    /// A repeated order must not empty the partition again: tokens are used once.
    fn begin(&mut self, token: Token, context: &mut Context<'_>) {
        if self.membership.token != Some(token) {
            self.clear(context.usage);
            self.membership.token = Some(token);
            self.membership.shadow = false;
        }
    }

    fn vouch(&mut self, key_hash: KeyHash, version: Version, context: &mut Context<'_>) {
        let epochs = &self.epochs;
        let found = self.table.find_mut(table_hash(key_hash), |entry| entry.is_of(key_hash));
        let Some(entry) = found else { return };
        if !self.membership.shadow
            || entry.is_vouched()
            || resolve(epochs, entry.version()) != version
        {
            return;
        }
        let share = share(context.key, key_hash, version, entry.checksum);
        self.sums.subtract(key_hash.leaf(), false, share);
        self.sums.add(key_hash.leaf(), true, share);
        *self.counts.of(entry) -= 1;
        entry.set_vouched(true);
        *self.counts.of(entry) += 1;
        let entry = *entry;
        self.remember(&entry);
    }

    fn finish(&mut self, token: Token, context: &mut Context<'_>) {
        if !self.membership.shadow || self.membership.token != Some(token) {
            return;
        }
        if context.guards.keep(Guard::FinishDrops) {
            let Self { table, counts, .. } = self;
            table.retain(|entry| {
                if !entry.is_vouched() {
                    counts.remove(entry);
                    context.usage.release(entry.place());
                }
                entry.is_vouched()
            });
            self.sums.drop_unvouched();
        }
        self.membership.shadow = false;
    }

    /// Of a whole copy only: what waits to be vouched for goes with the copy's end.
    fn forget(&mut self, key_hash: KeyHash, version: Version, context: &mut Context<'_>) {
        let same_key = |entry: &Entry| entry.is_of(key_hash);
        let Ok(slot) = self.table.find_entry(table_hash(key_hash), same_key) else { return };
        let entry = *slot.get();
        if !entry.is_vouched() || resolve(&self.epochs, entry.version()) != version {
            return;
        }
        slot.remove();
        let share = share(context.key, key_hash, version, entry.checksum);
        self.sums.subtract(key_hash.leaf(), true, share);
        self.counts.remove(&entry);
        context.usage.release(entry.place());
    }

    /// Nobody is left to vouch: what is there counts as it is.
    fn adopt(&mut self, token: Token, context: &Context<'_>) {
        let Self { table, epochs, sums, counts, .. } = self;
        for entry in table.iter_mut().filter(|entry| !entry.is_vouched()) {
            let (hash, version) = (entry.key_hash(), resolve(epochs, entry.version()));
            let share = share(context.key, hash, version, entry.checksum);
            sums.subtract(hash.leaf(), false, share);
            sums.add(hash.leaf(), true, share);
            *counts.of(entry) -= 1;
            entry.set_vouched(true);
            *counts.of(entry) += 1;
        }
        let entries: Vec<Entry> = table.iter().copied().collect();
        for entry in &entries {
            self.remember(entry);
        }
        self.membership.token = Some(token);
        self.membership.shadow = false;
    }

    /// Whoever is told of a floor may have dropped what made it settled, so it knows that it is.
    fn raise_floor(&mut self, version: Version, context: &mut Context<'_>) {
        let floor = self.membership.garbage_floor.max(version);
        self.membership.garbage_floor = floor;
        self.membership.watermark = self.membership.watermark.max(floor);
        self.recent.trim(self.watermark());
        if self.counts.tombstones + self.counts.unvouched == 0 {
            return;
        }
        let Self { table, epochs, sums, counts, .. } = self;
        table.retain(|entry| {
            let version = resolve(epochs, entry.version());
            let stays = !entry.is_tombstone() || version > floor;
            if !stays {
                let hash = entry.key_hash();
                let share = share(context.key, hash, version, entry.checksum);
                sums.subtract(hash.leaf(), entry.is_vouched(), share);
                counts.remove(entry);
                context.usage.release(entry.place());
            }
            stays
        });
        self.give_back_room();
    }

    /// A table keeps the room of what was removed from it.
    fn give_back_room(&mut self) {
        let needed = self.table.len() * 2;
        if self.table.capacity() > 2 * needed.max(SMALL_TABLE) {
            self.table.shrink_to(needed, Entry::table_hash);
        }
    }

    fn clear(&mut self, usage: &mut Usage) {
        for entry in &self.table {
            usage.release(entry.place());
        }
        self.table = HashTable::new();
        self.epochs.clear();
        self.sums = Sums::default();
        self.counts = Counts::default();
        self.recent.clear();
    }

    fn doubt_all(&mut self) {
        for entry in &mut self.table {
            entry.set_vouched(false);
        }
        self.sums.doubt_all();
        let Counts { records, tombstones, unvouched, bytes } = self.counts;
        let unvouched = records + tombstones + unvouched;
        self.counts = Counts { unvouched, bytes, ..Counts::default() };
        self.recent.clear();
    }

    /// The partition's state is not to be trusted: what is there serves only to be vouched for.
    pub(crate) fn demote(&mut self) {
        self.doubt_all();
        self.membership.token = None;
        self.membership.shadow = false;
    }

    fn is_refused(&self, write: &Write, guards: Guards) -> bool {
        let installed = write.carried == Carried::Install;
        let spared = installed && !write.tombstone && guards.keep(Guard::FloorSparesInstalls);
        let below_floor = write.version <= self.membership.garbage_floor;
        let outside = installed && !self.membership.shadow;
        (below_floor && !spared && guards.keep(Guard::FloorStopsPuts))
            || (outside && guards.keep(Guard::InstallOnlyInShadow))
    }

    fn write(&mut self, write: &Write, context: &mut Context<'_>) {
        if self.is_refused(write, context.guards) {
            return;
        }
        // The store refuses writes long before a partition has this many epochs.
        let Some(position) = self.epoch_position(write.version.epoch) else { return };
        let short = ShortVersion::new(position, write.version.seq);
        let entry = Entry::new(write.key_hash, short, write.checksum, write.tombstone, write.place);
        let Self { table, epochs, sums, counts, .. } = self;
        let same_key = |held: &Entry| held.is_of(write.key_hash);
        let leaf = write.key_hash.leaf();
        match table.entry(entry.table_hash(), same_key, Entry::table_hash) {
            Slot::Vacant(slot) => {
                slot.insert(entry);
            }
            Slot::Occupied(mut slot) => {
                let old = *slot.get();
                let version = resolve(epochs, old.version());
                let loses = !old.is_vouched() && context.guards.keep(Guard::UnvouchedLoses);
                if !loses && version >= write.version {
                    return;
                }
                let share = share(context.key, write.key_hash, version, old.checksum);
                sums.subtract(leaf, old.is_vouched(), share);
                counts.remove(&old);
                context.usage.release(old.place());
                *slot.get_mut() = entry;
            }
        }
        let share = share(context.key, write.key_hash, write.version, write.checksum);
        self.sums.add(leaf, true, share);
        self.counts.add(&entry);
        context.usage.take(entry.place());
        self.remember(&entry);
    }

    /// Compaction's part: the place changes, nothing else.
    fn relocate(&mut self, write: &Write, context: &mut Context<'_>) {
        let epochs = &self.epochs;
        let hash = table_hash(write.key_hash);
        let found = self.table.find_mut(hash, |entry| entry.is_of(write.key_hash));
        match found {
            Some(entry)
                if resolve(epochs, entry.version()) == write.version
                    && entry.checksum == write.checksum =>
            {
                let old = entry.place();
                entry.set_place(write.place);
                context.usage.relocate(old, entry.place());
            }
            _ if context.guards.keep(Guard::MoveNeverCreates) => {}
            _ => self.write(write, context),
        }
    }

    /// Whether the index has an entry of this very version.
    pub(crate) fn has(&self, write: &Write) -> bool {
        self.find(write.key_hash).is_some_and(|entry| {
            self.version_of(entry) == write.version && entry.checksum == write.checksum
        })
    }

    fn epoch_position(&mut self, epoch: Epoch) -> Option<u16> {
        if let Some(position) = self.epochs.iter().rposition(|known| *known == epoch) {
            return u16::try_from(position).ok();
        }
        if self.epochs.len() == MAX_EPOCHS / 2 || self.epochs.len() >= MAX_EPOCHS {
            self.forget_unused_epochs();
        }
        let position = u16::try_from(self.epochs.len()).ok()?;
        self.epochs.push(epoch);
        Some(position)
    }

    /// Renumbers the epochs so that only those of entries are left.
    fn forget_unused_epochs(&mut self) {
        let mut kept = Vec::new();
        let mut moved: Vec<Option<u16>> = vec![None; self.epochs.len()];
        for entry in &mut self.table {
            let old = entry.version();
            let Some(new) = moved.get_mut(old.epoch_position()) else { continue };
            let position = *new.get_or_insert_with(|| {
                kept.push(resolve(&self.epochs, old).epoch);
                u16::try_from(kept.len() - 1).unwrap_or(u16::MAX)
            });
            entry.set_version(ShortVersion::new(position, old.seq()));
        }
        self.epochs = kept;
    }

    /// How many epochs the entries are of, at most.
    pub(crate) fn epochs(&self) -> usize {
        self.epochs.len()
    }

    fn remember(&mut self, entry: &Entry) {
        let version = resolve(&self.epochs, entry.version());
        if !entry.is_vouched() || version <= self.watermark() {
            return;
        }
        self.recent.add(version, entry.key_hash());
        if self.recent.is_long() {
            let Self { recent, table, epochs, .. } = self;
            recent.retain(|version, key_hash| current(table, epochs, version, key_hash).is_some());
        }
    }

    fn watermark(&self) -> Version {
        self.membership.watermark.max(self.heard)
    }

    /// The leader told a watermark.
    pub(crate) fn hear_watermark(&mut self, version: Version) {
        self.heard = self.heard.max(version);
        self.recent.trim(self.heard);
    }

    /// The membership, with the watermark that was heard.
    pub(crate) fn membership(&self) -> Membership {
        Membership { watermark: self.watermark(), ..self.membership.clone() }
    }

    /// The version of an entry of this index.
    pub(crate) fn version_of(&self, entry: &Entry) -> Version {
        resolve(&self.epochs, entry.version())
    }

    /// The entry of a key, vouched or not.
    pub(crate) fn find(&self, key_hash: KeyHash) -> Option<&Entry> {
        self.table.find(table_hash(key_hash), |entry| entry.is_of(key_hash))
    }

    /// The entry without its value.
    pub(crate) fn summary(&self, entry: &Entry) -> Summary {
        Summary {
            key_hash: entry.key_hash(),
            version: self.version_of(entry),
            checksum: entry.checksum,
        }
    }

    /// The vouched entries above the watermark, by version.
    pub(crate) fn above_watermark(&self) -> Vec<Summary> {
        let entry = |(version, key_hash)| current(&self.table, &self.epochs, version, key_hash);
        self.recent.iter().filter_map(entry).map(|entry| self.summary(entry)).collect()
    }

    /// How long the short list is, outdated items included.
    #[cfg(test)]
    pub(crate) fn short_list_length(&self) -> usize {
        self.recent.iter().count()
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.table.iter()
    }

    /// How many records there are.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// What tells this copy from another.
    pub(crate) fn digest(&self) -> Digest {
        Digest {
            garbage_floor: self.membership.garbage_floor,
            leaves: self.sums.leaves().to_vec(),
            entries: self.counts.records + self.counts.tombstones,
        }
    }
}

fn resolve(epochs: &[Epoch], version: ShortVersion) -> Version {
    let epoch = epochs.get(version.epoch_position()).copied().unwrap_or_default();
    Version::new(epoch, version.seq())
}

/// The entry of a key if it is vouched and of this version.
fn current<'a>(
    table: &'a HashTable<Entry>,
    epochs: &[Epoch],
    version: Version,
    key_hash: KeyHash,
) -> Option<&'a Entry> {
    table
        .find(table_hash(key_hash), |entry| entry.is_of(key_hash))
        .filter(|entry| entry.is_vouched() && resolve(epochs, entry.version()) == version)
}
