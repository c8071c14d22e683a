//! Metadata made anew from what stores know, when the leader's is lost (rule 30).
//!
//! Each store durably keeps the newest configuration it heard of for each partition that it is a
//! member for, and knows what it holds. From the [`Testimony`] of every store, [`Rebuild`] takes for
//! each partition the newest configuration that anybody heard of, and keeps of its members those
//! that still hold the partition whole under the token it names. Why that is right although the
//! lost metadata may have been one change ahead is told in
//! [`partition`](crate::logic::partition)'s `telling`: it takes *every* member of that
//! configuration, and none of these partitions serves before all its members have been heard.
//!
//! Nobody can tell from the stores that came whether there are others that know better. So every
//! store that any configuration names, an older one too, must come or be given up by an operator;
//! and the operator is shown who has come, and asked whether that is everybody.
//!
//! What comes out is numbered far above whatever the lost metadata gave: an epoch that no store has
//! promised, and configurations whose versions begin with it.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::SmallVec;

use super::bootstrap::first;
use super::{Change, Cluster, MemberInfo, Membership, Output, State};
use crate::logic::detector;
use crate::logic::mutants::{self, Mutant};
use crate::logic::placement::place;
use crate::types::{
    ClusterId, Configuration, ConfigurationVersion, Epoch, IndexKey, Member, Moment,
    PartitionCount, PartitionId, StoreId, Token,
};

/// So many leaders may have begun without any of the stores that came having heard of them.
const EPOCHS_UNHEARD: u64 = 1 << 16;
/// Tokens and versions of configurations have room for epochs up to this.
const MAX_EPOCH: u64 = u32::MAX as u64;

/// What a store holds and knows of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The token under which it holds the partition whole, if it does.
    pub token: Option<Token>,
    /// The newest configuration it heard of.
    pub configuration: Option<Configuration>,
}

/// What a store says about itself and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Testimony {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The secret of that cluster.
    pub index_key: IndexKey,
    /// Into how many partitions the cluster is cut.
    pub partitions: PartitionCount,
    /// The highest epoch it has promised.
    pub promised: Epoch,
    /// Where its node is.
    pub info: MemberInfo,
    /// Its partitions, in order.
    pub holdings: Vec<Holding>,
}

/// What an operator has decided that stores cannot know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// These stores are lost for good.
    pub given_up: BTreeSet<StoreId>,
    /// Partitions that nobody holds or heard of may begin empty.
    pub begin_empty: bool,
}

/// A store that configurations name and that has not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Partitions whose newest configuration names it.
    pub partitions: usize,
    /// Of these, such as no store that has come holds.
    pub alone: usize,
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Partitions in all; 0 before any store has come.
    pub partitions: usize,
    /// Partitions for which everything needed is known.
    pub known: usize,
    /// Stores to come, or to be given up.
    pub missing: BTreeMap<StoreId, Missing>,
    /// Partitions whose every member was given up, or says that it holds it no more. They stay
    /// unavailable until one of them returns.
    pub lost: Vec<PartitionId>,
    /// Partitions that no store that has come holds or heard of.
    pub unheard: Vec<PartitionId>,
    /// Why these stores cannot be one cluster, if they cannot.
    pub conflict: Option<String>,
}

impl Survey {
    /// Counts one partition in.
    fn add(&mut self, partition: PartitionId, known: &Known<'_>) {
        match known {
            Known::Nothing => self.unheard.push(partition),
            Known::Holders(_) => self.known += 1,
            Known::Newest(newest, holders) => {
                let mut waits = false;
                for member in &newest.members {
                    if let Some(missing) = self.missing.get_mut(&member.store) {
                        waits = true;
                        missing.partitions += 1;
                        missing.alone += usize::from(holders.is_empty());
                    }
                }
                if holders.is_empty() && !waits {
                    self.lost.push(partition);
                }
                self.known += usize::from(!waits);
            }
        }
    }

    /// Whether nothing is in the way.
    pub fn is_complete(&self, decisions: &Decisions) -> bool {
        let waits = !self.missing.is_empty() && !mutants::enabled(Mutant::RebuiltFromSome);
        self.partitions > 0
            && self.conflict.is_none()
            && !waits
            && (self.unheard.is_empty() || decisions.begin_empty)
    }
}

/// What is known of one partition.
enum Known<'a> {
    /// The newest configuration, and those of its members that hold the partition.
    Newest(&'a Configuration, SmallVec<[Member; 4]>),
    /// No configuration was heard of; these hold what there is.
    Holders(SmallVec<[Member; 4]>),
    /// Nothing.
    Nothing,
}

/// The testimonies of all stores that have come, and what an operator decided.
#[derive(Clone, Copy, Debug)]
pub struct Rebuild<'a> {
    testimonies: &'a BTreeMap<StoreId, Testimony>,
    decisions: &'a Decisions,
    partitions: PartitionCount,
}

impl<'a> Rebuild<'a> {
    /// To be made from these, by a leader that cuts clusters into so many partitions.
    pub fn new(
        testimonies: &'a BTreeMap<StoreId, Testimony>,
        decisions: &'a Decisions,
        partitions: PartitionCount,
    ) -> Self {
        Self { testimonies, decisions, partitions }
    }

    /// An epoch that no leader has ever used; none if they are used up.
    pub fn epoch(&self) -> Option<Epoch> {
        let promised = self.testimonies.values().map(|it| it.promised).max()?;
        let next = promised.0.checked_add(EPOCHS_UNHEARD)?;
        (next <= MAX_EPOCH).then_some(Epoch(next))
    }

    /// How far it is.
    pub fn survey(&self) -> Survey {
        let mut survey = Survey { conflict: self.conflict(), ..Survey::default() };
        let Some(any) = self.testimonies.values().next() else { return survey };
        survey.partitions = usize::from(any.partitions.get());
        for store in self.named() {
            survey.missing.insert(store, Missing::default());
        }
        for partition in any.partitions.all() {
            let known = self.known(partition);
            survey.add(partition, &known);
        }
        survey
    }

    /// Stores that any configuration names and that are neither here nor given up.
    fn named(&self) -> BTreeSet<StoreId> {
        let holdings = self.testimonies.values().flat_map(|it| &it.holdings);
        let members =
            holdings.filter_map(|it| it.configuration.as_ref()).flat_map(|it| &it.members);
        let stores = members.map(|member| member.store);
        let here = |store: &StoreId| self.testimonies.contains_key(store);
        stores.filter(|it| !here(it) && !self.decisions.given_up.contains(it)).collect()
    }

    fn conflict(&self) -> Option<String> {
        let (first, one) = self.testimonies.iter().next()?;
        let (ours, theirs) = (self.partitions.get(), one.partitions.get());
        if ours != theirs {
            return Some(format!(
                "the cluster has {theirs} partitions, this build makes {ours}; use the build that \
                 made it"
            ));
        }
        self.testimonies.iter().find_map(|(store, other)| {
            if other.cluster != one.cluster {
                let (a, b) = (one.cluster, other.cluster);
                return Some(format!(
                    "store {first} belongs to cluster {a}, store {store} to cluster {b}; stop the \
                     nodes of the wrong one"
                ));
            }
            let same = other.index_key == one.index_key && other.partitions == one.partitions;
            (!same).then(|| {
                format!(
                    "stores {first} and {store} of cluster {} have different secrets or numbers of \
                     partitions; stop the one that was restored wrongly",
                    one.cluster
                )
            })
        })
    }

    fn holding(&self, store: StoreId, partition: PartitionId) -> Option<&'a Holding> {
        self.testimonies.get(&store)?.holdings.get(partition.index())
    }

    fn known(&self, partition: PartitionId) -> Known<'a> {
        let all = self.testimonies.iter().filter_map(|(store, testimony)| {
            testimony.holdings.get(partition.index()).map(|holding| (*store, holding))
        });
        let newest = all.clone().filter_map(|(_, holding)| holding.configuration.as_ref());
        if let Some(newest) = newest.max_by_key(|configuration| configuration.version) {
            let holds = |member: &&Member| {
                let holding = self.holding(member.store, partition);
                holding.is_some_and(|holding| holding.token == Some(member.token))
            };
            return Known::Newest(newest, newest.members.iter().filter(holds).copied().collect());
        }
        let holder = |(store, holding): (StoreId, &Holding)| {
            holding.token.map(|token| Member { store, token })
        };
        let holders: SmallVec<[Member; 4]> = all.filter_map(holder).collect();
        if holders.is_empty() { Known::Nothing } else { Known::Holders(holders) }
    }

    /// The metadata, if nothing is in the way: of this epoch, and with this many copies where a
    /// partition begins empty.
    pub fn state(&self, epoch: Epoch, created: i64, copies: usize) -> Option<State> {
        let any = self.testimonies.values().next()?;
        if !self.survey().is_complete(self.decisions) {
            return None;
        }
        let Testimony { cluster: id, index_key, partitions, .. } = *any;
        let stores: Vec<StoreId> = self.testimonies.keys().copied().collect();
        let table = place(partitions, &stores, copies);
        let mut changes = vec![
            Change::Epoch(epoch),
            Change::Cluster(Cluster { id, index_key, partitions, created }),
        ];
        changes.extend(self.testimonies.iter().map(|(store, testimony)| {
            Change::Member(*store, MemberInfo { placed: true, ..testimony.info.clone() })
        }));
        changes.extend(partitions.all().map(|partition| match self.known(partition) {
            Known::Nothing => Change::Configuration(partition, first(partition, &table, epoch)),
            Known::Holders(members) => rebuilt(partition, epoch, None, members),
            // Nobody holds it: its members stay on the books, in case one of them returns.
            Known::Newest(newest, holders) if holders.is_empty() => {
                rebuilt(partition, epoch, Some(newest), newest.members.clone())
            }
            Known::Newest(newest, holders) => rebuilt(partition, epoch, Some(newest), holders),
        }));
        let mut state = State::default();
        state.apply_all(&changes).ok()?;
        Some(state)
    }
}

fn rebuilt(
    partition: PartitionId,
    epoch: Epoch,
    newest: Option<&Configuration>,
    members: SmallVec<[Member; 4]>,
) -> Change {
    let above = newest.map(|newest| newest.version.next()).unwrap_or_default();
    let version = above.max(ConfigurationVersion(epoch.0 << 32));
    Change::Rebuilt(partition, Configuration { version, members })
}

impl Membership {
    /// The metadata was made anew from what stores know: it is made durable, and the cluster goes on.
    pub(super) fn rebuilt(&mut self, now: Moment, state: &State, out: &mut Vec<Output>) {
        let Some(cluster) = state.cluster.filter(|_| self.cluster.is_none()) else { return };
        self.epoch = state.epoch;
        self.cluster = Some(cluster);
        self.members.clone_from(&state.members);
        self.known = super::outdated::versions(state);
        // They have promised the epoch already.
        self.spoken_to.extend(state.members.keys());
        for store in state.members.keys() {
            self.detector.step(now, detector::Input::Expected(*store));
        }
        out.extend([Output::Persist(state.changes().collect()), Output::Founded(cluster)]);
        self.replace_table(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(number: u128) -> StoreId {
        StoreId::from_number(number)
    }

    /// Of stores that hold the partition under the token that is their number.
    fn configuration(version: u64, members: &[u128]) -> Configuration {
        let member = |number: &u128| {
            let token = Token(u64::try_from(*number).unwrap());
            Member { store: store(*number), token }
        };
        Configuration {
            version: ConfigurationVersion(version),
            members: members.iter().map(member).collect(),
        }
    }

    /// A store of a cluster with one partition, of which it holds a whole copy under its number.
    fn testimony(number: u128, promised: u64, heard: Option<Configuration>) -> Testimony {
        Testimony {
            cluster: ClusterId::from_number(9),
            index_key: IndexKey([3; 16]),
            partitions: one(),
            promised: Epoch(promised),
            info: MemberInfo { address: format!("n{number}:1"), ..MemberInfo::default() },
            holdings: vec![Holding {
                token: Some(Token(u64::try_from(number).unwrap())),
                configuration: heard,
            }],
        }
    }

    type Testimonies = BTreeMap<StoreId, Testimony>;

    fn testimonies(all: Vec<(u128, u64, Option<Configuration>)>) -> Testimonies {
        let all = all.into_iter();
        all.map(|(number, promised, heard)| (store(number), testimony(number, promised, heard)))
            .collect()
    }

    fn one() -> PartitionCount {
        PartitionCount::new(1).unwrap()
    }

    fn state(testimonies: &Testimonies, decisions: &Decisions) -> Result<State, Survey> {
        let rebuild = Rebuild::new(testimonies, decisions, one());
        let epoch = rebuild.epoch().unwrap();
        rebuild.state(epoch, 0, 2).ok_or_else(|| rebuild.survey())
    }

    fn members(state: &State) -> Vec<StoreId> {
        state.configurations[0].members.iter().map(|member| member.store).collect()
    }

    #[test]
    fn the_newest_configuration_anybody_heard_of_counts() {
        let (old, new) = (configuration(4, &[1, 2, 3]), configuration(5, &[1, 2]));
        let heard = vec![(1, 7, Some(new)), (2, 8, Some(old.clone())), (3, 6, Some(old))];
        let found = state(&testimonies(heard), &Decisions::default()).unwrap();
        assert_eq!(members(&found), [store(1), store(2)]);
        assert!(found.unconfirmed.contains(&PartitionId(0)));
        assert!(found.epoch > Epoch(8) && found.members.len() == 3);
        assert!(found.configurations[0].version.0 > 1 << 32, "above all that was ever given");
        assert_eq!(found.cluster.map(|it| it.id), Some(ClusterId::from_number(9)));
    }

    #[test]
    fn every_member_must_come_or_be_given_up() {
        let heard = vec![(1, 7, Some(configuration(5, &[1, 2])))];
        let survey = state(&testimonies(heard.clone()), &Decisions::default()).unwrap_err();
        assert_eq!(survey.missing[&store(2)], Missing { partitions: 1, alone: 0 });
        assert_eq!((survey.known, survey.partitions), (0, 1));
        let given_up = Decisions { given_up: [store(2)].into(), ..Decisions::default() };
        assert_eq!(members(&state(&testimonies(heard), &given_up).unwrap()), [store(1)]);
    }

    #[test]
    fn whoever_an_older_configuration_names_may_know_better() {
        let (old, new) = (configuration(4, &[1, 3]), configuration(5, &[1, 2]));
        let heard = testimonies(vec![(1, 7, Some(old)), (2, 7, Some(new))]);
        let survey = state(&heard, &Decisions::default()).unwrap_err();
        assert_eq!(survey.missing[&store(3)], Missing { partitions: 0, alone: 0 });
    }

    #[test]
    fn who_holds_it_no_more_under_the_token_named_is_no_member() {
        let named = configuration(5, &[1, 2]);
        let mut heard = testimonies(vec![(1, 7, Some(named.clone())), (2, 7, Some(named))]);
        // It was removed since, and is being filled anew.
        heard.get_mut(&store(2)).unwrap().holdings[0].token = Some(Token(99));
        assert_eq!(members(&state(&heard, &Decisions::default()).unwrap()), [store(1)]);
        // If nobody is left, the partition waits for whoever its members were.
        heard.get_mut(&store(1)).unwrap().holdings[0].token = None;
        let decisions = Decisions::default();
        assert_eq!(Rebuild::new(&heard, &decisions, one()).survey().lost, [PartitionId(0)]);
        assert_eq!(members(&state(&heard, &decisions).unwrap()), [store(1), store(2)]);
    }

    #[test]
    fn what_nobody_holds_begins_empty_only_if_an_operator_says_so() {
        let mut heard = testimonies(vec![(1, 7, None), (2, 7, None)]);
        assert_eq!(members(&state(&heard, &Decisions::default()).unwrap()), [store(1), store(2)]);
        for testimony in heard.values_mut() {
            testimony.holdings[0].token = None;
        }
        let survey = state(&heard, &Decisions::default()).unwrap_err();
        assert_eq!(survey.unheard, [PartitionId(0)]);
        let empty = Decisions { begin_empty: true, ..Decisions::default() };
        let found = state(&heard, &empty).unwrap();
        assert_eq!(found.configurations[0].version, ConfigurationVersion::FIRST);
        assert!(found.unconfirmed.is_empty());
    }

    #[test]
    fn stores_of_two_clusters_are_not_one() {
        let mut heard = testimonies(vec![(1, 7, None), (2, 7, None)]);
        heard.get_mut(&store(2)).unwrap().cluster = ClusterId::from_number(10);
        let survey = state(&heard, &Decisions::default()).unwrap_err();
        assert!(survey.conflict.is_some_and(|it| it.contains("stop the nodes of the wrong one")));
    }
}
