//! What members know of configurations, and partitions whose configuration was made anew from that.
//!
//! The leader's metadata is what counts, but it lies on one disk. So members are told each durable
//! configuration, and keep it (rule 30). They are told afterwards, and not everybody at once: what
//! they know may be one change behind. Two things keep it from being more, and from mattering:
//!
//! * A configuration is followed by another only when some member has durably heard of it, and it
//!   keeps at least one of the members it follows.
//! * A member hears of a configuration before it hears of any watermark that was reached under it.
//!
//! So whoever is named by the newest configuration that stores know of may have been removed since,
//! by one change, but then at least one other that it names was not: that one holds everything that
//! was acknowledged, and whatever the removed one lacks lies above the watermark that it knows. A
//! partition with a configuration made anew therefore does not serve before all of its members have
//! answered its fence and hold everything that any of them holds above the watermark. Then, and not
//! before, its set is one like any other, and that is made durable with the next configuration.

use crate::types::{Configuration, ConfigurationVersion, StoreId, Token};

use super::Partition;
use super::io::{Order, Output};
use crate::logic::mutants::{self, Mutant};

impl Partition {
    /// The partition's configuration was made anew from what stores knew, and is not yet confirmed.
    #[must_use]
    pub fn rebuilt(mut self) -> Self {
        self.unconfirmed = !mutants::enabled(Mutant::ServedUnconfirmed);
        self
    }

    /// Whether its configuration was made anew and is not yet confirmed.
    pub fn is_unconfirmed(&self) -> bool {
        self.unconfirmed
    }

    /// Tells the committed configuration to a member that has answered its fence.
    pub(super) fn tell_configuration(&self, slot: usize, out: &mut Vec<Output>) {
        let Some(replica) = self.replicas.in_slot(slot) else { return };
        let named = self.configuration.token_of(replica.store) == Some(replica.token);
        if named && replica.peered && self.state_of(replica.store).connected {
            let order = Order::Configuration(self.configuration.clone());
            out.push(Output::Order { to: replica.address(), order });
        }
    }

    pub(super) fn tell_members(&self, out: &mut Vec<Output>) {
        for (slot, _) in self.replicas.members() {
            self.tell_configuration(slot, out);
        }
    }

    /// A member has durably heard of a configuration.
    pub(super) fn heard(
        &mut self,
        store: StoreId,
        token: Token,
        version: ConfigurationVersion,
        out: &mut Vec<Output>,
    ) {
        let current = version == self.configuration.version;
        if current && !self.told && self.configuration.token_of(store) == Some(token) {
            self.told = true;
            self.reconfigure(out);
        }
    }

    /// A configuration made anew becomes one like any other as soon as every member it names has
    /// everything that any of them may have acknowledged.
    pub(super) fn confirm(&mut self, out: &mut Vec<Output>) {
        let answered = self.replicas.members().all(|(_, replica)| replica.peered && replica.merged);
        let settled = self.unsettled.iter().all(|(_, it)| self.frozen.contains(&it.key_hash));
        if answered && settled && self.proposed.is_none() {
            let version = self.configuration.version.next();
            let members = self.configuration.members.clone();
            self.propose(Configuration { version, members }, out);
        }
    }
}
