//! What is left of partitions that lost all their members (rule 29), and the operator's decision to go
//! on with it.
//!
//! The decision is about what was shown: it names the plan, and if anything has changed since - a
//! member has come back - nothing is done. It is in the audit log before it is carried out.

use std::collections::BTreeMap;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use tokio::sync::oneshot;

use super::rebuild::{Asked, Copy, RebuildError, ask};
use super::{Call, Handle};
use crate::logic::partition::CopyStatus;
use crate::logic::placement::Table;
use crate::types::{Epoch, PartitionId, StoreId, Version};

/// What the coordinator knows of it.
#[derive(Debug)]
pub(crate) struct Recoverable {
    /// Stores that can be asked.
    pub(crate) live: Vec<Asked>,
    /// Partitions that do not serve, each with its copies.
    pub(crate) lost: Vec<(PartitionId, Vec<CopyStatus>)>,
    /// What the ring proposes.
    pub(crate) targets: Arc<Table>,
}

/// With what a partition would go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// Members that answer, while others do not.
    Members(SmallVec<[StoreId; 4]>),
    /// A copy that was whole once, up to this version.
    Older { store: StoreId, records: u64, newest: Version },
    /// Some records of a copy that was not completed, or is damaged.
    Pieces { store: StoreId, records: u64 },
    /// Nothing: it begins empty here.
    Nothing(StoreId),
}

impl Remains {
    fn stores(&self) -> SmallVec<[StoreId; 4]> {
        match self {
            Self::Members(stores) => stores.clone(),
            Self::Older { store, .. } | Self::Pieces { store, .. } | Self::Nothing(store) => {
                smallvec![*store]
            }
        }
    }
}

/// A partition that lost all its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) partition: PartitionId,
    /// Its members.
    pub(crate) members: Vec<StoreId>,
    pub(crate) remains: Remains,
}

type Copies = BTreeMap<StoreId, Vec<Copy>>;

/// The best of what live stores hold of a partition.
fn remains(
    partition: PartitionId,
    copies: &[CopyStatus],
    held: &Copies,
    targets: &Table,
) -> Option<Remains> {
    let answering = copies.iter().filter(|it| it.in_sync && it.live && it.peered);
    let members: SmallVec<[StoreId; 4]> =
        answering.map(|it| it.store).filter(|store| held.contains_key(store)).collect();
    if !members.is_empty() {
        return Some(Remains::Members(members));
    }
    let here =
        || held.iter().filter_map(|(store, all)| Some((*store, all.get(partition.index())?)));
    let whole = here().filter(|(_, copy)| copy.holding.token.is_some());
    if let Some((store, copy)) = whole.max_by_key(|(_, copy)| (copy.newest, copy.records)) {
        let Copy { records, newest, .. } = *copy;
        return Some(Remains::Older { store, records, newest });
    }
    let pieces = here().filter(|(_, copy)| copy.records + copy.loose > 0);
    if let Some((store, copy)) = pieces.max_by_key(|(_, copy)| copy.records + copy.loose) {
        return Some(Remains::Pieces { store, records: copy.records + copy.loose });
    }
    let mut proposed = targets.stores(partition).iter().filter(|it| held.contains_key(it));
    proposed.next().or_else(|| held.keys().next()).map(|store| Remains::Nothing(*store))
}

impl Handle {
    /// What could be forced, and what would be lost by it.
    pub(crate) async fn losses(&self) -> Result<Vec<Loss>, RebuildError> {
        let (reply, recoverable) = oneshot::channel();
        self.call(Call::Recoverable { reply }).await?;
        let recoverable = recoverable.await.map_err(|_| RebuildError::Stopping)?;
        let Recoverable { live, lost, targets } = recoverable;
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let leader = self.boot;
        let asking = live.into_iter().map(async |asked| {
            let answer = ask(&asked, Epoch(0), leader).await;
            (asked.store, answer)
        });
        let answers = futures::future::join_all(asking).await.into_iter();
        let held: Copies =
            answers.filter_map(|(store, answer)| Some((store, answer.ok()?.copies))).collect();
        let losses = lost.into_iter().filter_map(|(partition, copies)| {
            let remains = remains(partition, &copies, &held, &targets)?;
            let members = copies.iter().filter(|copy| copy.in_sync).map(|copy| copy.store);
            Some(Loss { partition, members: members.collect(), remains })
        });
        Ok(losses.collect())
    }

    /// Goes on with what remains, as an operator decided; it is written down first.
    pub(crate) async fn force(
        &self,
        losses: Vec<Loss>,
        details: &impl serde::Serialize,
    ) -> Result<(), RebuildError> {
        self.audit.record("force-recover", details).await?;
        let decided = losses.into_iter().map(|loss| (loss.partition, loss.remains.stores()));
        let (reply, done) = oneshot::channel();
        self.call(Call::Force { decided: decided.collect(), reply }).await?;
        done.await.map_err(|_| RebuildError::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::comparison::Doubt;
    use crate::logic::membership::Holding;
    use crate::types::Token;

    fn copy(whole: bool, seq: u64, records: u64, loose: u64) -> Vec<Copy> {
        let holding = Holding { token: whole.then_some(Token(1)), configuration: None };
        vec![Copy { holding, newest: Version::new(Epoch(1), seq), records, loose }]
    }

    fn store(number: u128) -> StoreId {
        StoreId::from_number(number)
    }

    #[test]
    fn the_best_of_what_is_left_is_taken() {
        let table = Table::default();
        let mut held = Copies::new();
        let best = |held: &Copies| remains(PartitionId(0), &[], held, &table);
        assert_eq!(best(&held), None, "without any node there is nothing to go on with");
        held.insert(store(1), copy(false, 0, 0, 0));
        assert_eq!(best(&held), Some(Remains::Nothing(store(1))));
        held.insert(store(2), copy(false, 0, 3, 4));
        assert_eq!(best(&held), Some(Remains::Pieces { store: store(2), records: 7 }));
        held.insert(store(3), copy(true, 5, 2, 0));
        held.insert(store(4), copy(true, 4, 9, 0));
        let newest = Version::new(Epoch(1), 5);
        let older = Remains::Older { store: store(3), records: 2, newest };
        assert_eq!(best(&held), Some(older));
        let member = CopyStatus {
            store: store(1),
            in_sync: true,
            live: true,
            peered: true,
            doubt: Doubt::None,
        };
        let members = remains(PartitionId(0), &[member], &held, &table);
        assert_eq!(members, Some(Remains::Members(smallvec![store(1)])));
    }
}
