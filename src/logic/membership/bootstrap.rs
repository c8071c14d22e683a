//! The beginning of a cluster: when there are enough fresh stores, and no full one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{
    Answer, Change, Cluster, MAX_MEMBERS, MemberInfo, Membership, MembershipSettings, Output,
    Registration,
};
use crate::logic::placement::{Table, place};
use crate::types::{
    ClusterId, Configuration, ConfigurationVersion, Epoch, Member, Moment, PartitionCount,
    PartitionId, StoreId, Token,
};

/// How often a waiting node asks again.
const RETRY: Duration = Duration::from_millis(200);
/// A waiting node that has not asked for this long has gone.
const GONE: Duration = Duration::from_secs(3);
/// A node that was refused asks less and less often.
const MEMBER_GONE: Duration = Duration::from_secs(10);

/// A fresh store that waits for a cluster.
#[derive(Debug)]
struct Candidate {
    registration: Registration,
    since: Moment,
    asked: Moment,
}

/// Stores that wait for a cluster to begin.
#[derive(Debug)]
pub(super) struct Bootstrap {
    spare: Cluster,
    candidates: BTreeMap<StoreId, Candidate>,
    /// Stores that belong to a cluster already, and wait for one.
    members: BTreeMap<StoreId, Candidate>,
    /// A store that belongs to a cluster of which this leader knows nothing.
    full: Option<(StoreId, ClusterId)>,
    /// Why the metadata that there is does not count.
    outdated: Option<String>,
}

impl Bootstrap {
    pub(super) fn new(spare: Cluster) -> Self {
        let (candidates, members) = (BTreeMap::new(), BTreeMap::new());
        Self { spare, candidates, members, full: None, outdated: None }
    }

    /// There is metadata, and for this reason it does not count: it has to be made anew.
    pub(super) fn set_aside(&mut self, reason: String) {
        self.outdated = Some(reason);
    }

    pub(super) fn refusal(&self) -> Option<String> {
        self.outdated.clone().or_else(|| self.lost())
    }

    fn lost(&self) -> Option<String> {
        self.full.map(|(store, cluster)| {
            format!(
                "this leader has no metadata, but store {store} belongs to cluster {cluster}: a new \
                 cluster would hide its data; start the leader with its own data directory, or \
                 make the metadata anew from the nodes: hatokuse rebuild-metadata"
            )
        })
    }

    /// Takes in a store while there is no cluster.
    pub(super) fn register(
        &mut self,
        now: Moment,
        registration: Registration,
        settings: &MembershipSettings,
    ) -> Answer {
        let store = registration.store;
        if let Some(cluster) = registration.cluster {
            self.full.get_or_insert((store, cluster));
            if self.members.len() < MAX_MEMBERS || self.members.contains_key(&store) {
                let member = Candidate { registration, since: now, asked: now };
                self.members.insert(store, member);
            }
            return self.refuse();
        }
        if self.is_refusing() {
            return self.refuse();
        }
        if self.is_claimed(&registration, now) {
            let reason = format!("store {store} is open in another process; stop one of the two");
            return Answer::Refused { reason, last_word: false };
        }
        if self.candidates.len() < MAX_MEMBERS || self.candidates.contains_key(&store) {
            let since = self.candidates.get(&store).map_or(now, |known| known.since);
            self.candidates.insert(store, Candidate { registration, since, asked: now });
        }
        Answer::Pending { retry_after: RETRY, reason: self.reason(settings) }
    }

    fn is_refusing(&self) -> bool {
        self.full.is_some() || self.outdated.is_some()
    }

    fn refuse(&self) -> Answer {
        Answer::Refused { reason: self.refusal().unwrap_or_default(), last_word: false }
    }

    /// The stores of a cluster that wait, and ask now and then.
    pub(super) fn members(&self, now: Moment) -> impl Iterator<Item = &Registration> {
        let here = self.members.values().filter(move |it| now.since(it.asked) < MEMBER_GONE);
        here.map(|member| &member.registration)
    }

    /// Into how many partitions this leader cuts clusters.
    pub(super) fn partitions(&self) -> PartitionCount {
        self.spare.partitions
    }

    /// Whether another process that still asks has the store open.
    fn is_claimed(&self, registration: &Registration, now: Moment) -> bool {
        self.candidates.get(&registration.store).is_some_and(|known| {
            known.registration.boot != registration.boot && now.since(known.asked) < RETRY * 5
        })
    }

    fn reason(&self, settings: &MembershipSettings) -> String {
        let (here, wanted) = (self.candidates.len(), wanted(settings));
        if here < wanted {
            format!("a new cluster needs {wanted} nodes, {here} have come")
        } else {
            format!("a new cluster begins with {here} nodes when no further one comes")
        }
    }

    /// The stores to begin with, if it is time.
    fn founders(&mut self, now: Moment, settings: &MembershipSettings) -> Option<Vec<StoreId>> {
        self.candidates.retain(|_, candidate| now.since(candidate.asked) < GONE);
        let enough = self.candidates.len() >= wanted(settings);
        let newest = self.candidates.values().map(|candidate| candidate.since).max()?;
        let quiet = settings.bootstrap_nodes.is_some() || now.since(newest) >= settings.quiet;
        let begin = !self.is_refusing() && enough && quiet;
        begin.then(|| self.candidates.keys().copied().collect())
    }
}

/// How many stores a cluster needs to begin.
fn wanted(settings: &MembershipSettings) -> usize {
    settings.bootstrap_nodes.unwrap_or(0).max(settings.floor).max(1)
}

impl Membership {
    /// Creates the cluster, if there is none and it is time.
    pub(super) fn found(&mut self, now: Moment, out: &mut Vec<Output>) {
        if self.cluster.is_some() {
            return;
        }
        let Some(founders) = self.bootstrap.founders(now, &self.settings) else { return };
        let cluster = self.bootstrap.spare;
        let table = place(cluster.partitions, &founders, self.settings.copies);
        let mut changes = vec![Change::Cluster(cluster)];
        for (store, candidate) in std::mem::take(&mut self.bootstrap.candidates) {
            let Registration { address, admin_address, .. } = candidate.registration;
            let info = MemberInfo { address, admin_address, placed: true, drained: false };
            self.members.insert(store, info.clone());
            changes.push(Change::Member(store, info));
            self.detector.step(now, crate::logic::detector::Input::Expected(store));
        }
        let first =
            |partition| Change::Configuration(partition, first(partition, &table, self.epoch));
        changes.extend(cluster.partitions.all().map(first));
        self.cluster = Some(cluster);
        out.extend([Output::Persist(changes), Output::Founded(cluster)]);
        self.replace_table(out);
    }
}

/// The configuration that a partition begins with. Its tokens are used once: the epoch is, and
/// within it each place of each partition has its own.
pub(super) fn first(partition: PartitionId, table: &Table, epoch: Epoch) -> Configuration {
    let stores = table.stores(partition).iter();
    let member = |(place, store): (u64, &StoreId)| Member {
        store: *store,
        token: Token((epoch.0 << 32) | place),
    };
    Configuration {
        version: ConfigurationVersion::FIRST,
        members: (1..).zip(stores).map(member).collect(),
    }
}
