//! When every member is lost (rule 29).
//!
//! A partition without any member that answers is unavailable until one returns, however long that
//! takes: nothing here decides by itself that none will. An operator may, and then names the stores
//! with which to go on. Of members that answer - there are such while a configuration made anew waits
//! for others - what they hold counts; any other store goes on with whatever it has, which an
//! earlier, an unfinished or a damaged copy may have left, or with nothing.

use smallvec::SmallVec;

use crate::types::{Configuration, Member, StoreId};

use super::Partition;
use super::io::Output;
use super::replicas::Replica;

impl Partition {
    /// Whether an operator may decide that its members are lost.
    pub fn is_forcible(&self) -> bool {
        let serves = self.serving && self.usable().next().is_some();
        self.proposed.is_none() && !serves
    }

    pub(super) fn force(&mut self, stores: &[StoreId], out: &mut Vec<Output>) {
        if !self.is_forcible() || stores.is_empty() {
            return;
        }
        let members: SmallVec<[Member; 4]> = stores.iter().map(|it| self.going_on(*it)).collect();
        let version = self.configuration.version.next();
        let configuration = Configuration { version, members };
        out.push(Output::Force(configuration.clone()));
        (self.proposed, self.forced) = (Some(configuration), Some(version));
    }

    /// As what a store goes on: as the member it is, if it has answered, else under a fresh token.
    fn going_on(&mut self, store: StoreId) -> Member {
        let answered = self
            .replicas
            .get(store)
            .filter(|(_, replica)| replica.is_member() && replica.peered && !replica.disowned);
        match answered.map(|(_, replica)| replica.address()) {
            Some(member) => member,
            None => Member { store, token: self.fresh_token() },
        }
    }

    /// What an operator decided is durable: the stores he named are members now, and fenced.
    pub(super) fn take_in_forced(&mut self, out: &mut Vec<Output>) {
        for member in self.configuration.members.clone() {
            let known = self.replicas.get(member.store).map(|(_, replica)| replica.token);
            if known == Some(member.token) {
                continue;
            }
            if let Some((slot, _)) = self.replicas.remove(member.store) {
                self.unsettled.forget_slot(slot);
                self.forget_reads_of(slot);
            }
            self.strangers.remove(&member.store);
            self.replicas.insert(Replica::member(member.store, member.token));
            if self.state_of(member.store).connected {
                self.fence(member.store, out);
            }
        }
        // What is remembered may be more than what is left. It is forgotten of every partition: which
        // keys are this one's the cache does not know, and this is no everyday matter.
        self.cache.clear();
        self.serving = false;
    }
}
