//! Evens out the shares of the stores, at the least total way along the ring.
//!
//! This is the transportation problem, solved by shortest augmenting paths: starting from the
//! assignment that is cheapest without bounds, each step finds the cheapest chain of moves from a
//! store with too much to one with room. Successive shortest paths keep the assignment the cheapest
//! of all with its shares, so the result does not depend on the order of the steps but for ties.

/// One copy that could move from a store to another, and how much further it would lie.
#[derive(Clone, Copy, Debug)]
struct Move {
    cost: i64,
    partition: usize,
}

/// No chain reaches the store.
const UNREACHED: i64 = i64::MAX;

/// Which stores hold which partition while shares are evened out.
#[derive(Debug)]
pub(super) struct Balance {
    /// For each partition, what each store costs.
    costs: Vec<Vec<i64>>,
    /// For each partition, which stores hold it.
    held: Vec<Vec<bool>>,
    /// How many partitions each store holds.
    shares: Vec<usize>,
    least: usize,
    most: usize,
}

/// The stores of one row, cheapest first.
fn by_cost(row: &[i64]) -> Vec<usize> {
    let mut order: Vec<(i64, usize)> = row.iter().copied().zip(0..).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, store)| store).collect()
}

/// The bounds of a share: 5 % either side of the mean, or the whole numbers next to it where that
/// is more.
fn bounds(total: usize, stores: usize) -> (usize, usize) {
    let stores = stores.max(1);
    let least = (total * 95).div_ceil(stores * 100).min(total / stores);
    let most = (total * 105 / (stores * 100)).max(total.div_ceil(stores));
    (least, most)
}

impl Balance {
    /// Each partition at its `copies` cheapest stores. All rows are of one length.
    pub(super) fn nearest(costs: Vec<Vec<i64>>, copies: usize) -> Self {
        let stores = costs.first().map_or(0, Vec::len);
        let mut shares = vec![0; stores];
        let nearest = |row: &Vec<i64>| {
            let mut held = vec![false; stores];
            for store in by_cost(row).into_iter().take(copies) {
                add(&mut shares, store);
                set(&mut held, store, true);
            }
            held
        };
        let held = costs.iter().map(nearest).collect();
        let (least, most) = bounds(costs.len() * copies, stores);
        Self { costs, held, shares, least, most }
    }

    /// Moves copies until every share is within its bounds.
    pub(super) fn settle(&mut self) {
        while self.relieve() || self.fill() {}
    }

    /// The stores of each partition, cheapest first.
    pub(super) fn chosen(&self) -> impl Iterator<Item = impl Iterator<Item = usize>> {
        self.costs.iter().zip(&self.held).map(|(row, held)| {
            let holds = |store: &usize| held.get(*store).is_some_and(|held| *held);
            by_cost(row).into_iter().filter(holds)
        })
    }

    /// Takes one copy from the first store that has too many; says whether there was one.
    fn relieve(&mut self) -> bool {
        let Some(full) = self.shares.iter().position(|share| *share > self.most) else {
            return false;
        };
        let most = self.most;
        self.shift(|store, _| store == full, |_, share| share < most)
    }

    /// Gives one copy to the first store that has too few; says whether there was one.
    fn fill(&mut self) -> bool {
        let Some(poor) = self.shares.iter().position(|share| *share < self.least) else {
            return false;
        };
        let least = self.least;
        self.shift(|_, share| share > least, |store, _| store == poor)
    }

    /// Carries out the cheapest chain of moves from a store that may give to one that may take.
    fn shift(
        &mut self,
        may_give: impl Fn(usize, usize) -> bool,
        may_take: impl Fn(usize, usize) -> bool,
    ) -> bool {
        let moves = self.cheapest_moves();
        let gives = |(store, share): (usize, &usize)| may_give(store, *share);
        let starts = self.shares.iter().enumerate().map(gives).collect::<Vec<_>>();
        let paths = Paths::from(&starts, &moves);
        let takers = (0..).zip(&self.shares).filter(|(store, share)| may_take(*store, **share));
        let nearest = takers
            .map(|(store, _)| (paths.distance(store), store))
            .min()
            .filter(|(distance, _)| *distance != UNREACHED);
        let Some((_, mut to)) = nearest else { return false };
        add(&mut self.shares, to);
        while let Some((from, partition)) = paths.before(to) {
            if let Some(held) = self.held.get_mut(partition) {
                set(held, from, false);
                set(held, to, true);
            }
            to = from;
        }
        if let Some(share) = self.shares.get_mut(to) {
            *share = share.saturating_sub(1);
        }
        true
    }

    /// For each pair of stores, the copy that moves from one to the other at the least cost.
    fn cheapest_moves(&self) -> Vec<Vec<Option<Move>>> {
        let stores = self.shares.len();
        let mut moves = vec![vec![None; stores]; stores];
        for (partition, (costs, held)) in self.costs.iter().zip(&self.held).enumerate() {
            let givers =
                moves.iter_mut().zip(costs.iter().zip(held)).filter(|(_, (_, held))| **held);
            for (row, (giver_cost, _)) in givers {
                let takers = row.iter_mut().zip(costs.iter().zip(held));
                for (best, (taker_cost, _)) in takers.filter(|(_, (_, held))| !**held) {
                    let cost = taker_cost - giver_cost;
                    if best.is_none_or(|best: Move| cost < best.cost) {
                        *best = Some(Move { cost, partition });
                    }
                }
            }
        }
        moves
    }
}

/// The cheapest chain of moves to each store (Bellman and Ford: moves may have negative cost, but
/// no circle of them has, or the assignment would not be the cheapest of its shares).
#[derive(Debug)]
struct Paths {
    distance: Vec<i64>,
    before: Vec<Option<(usize, usize)>>,
}

impl Paths {
    fn from(starts: &[bool], moves: &[Vec<Option<Move>>]) -> Self {
        let distance = starts.iter().map(|start| if *start { 0 } else { UNREACHED }).collect();
        let mut paths = Self { distance, before: vec![None; starts.len()] };
        for _ in starts {
            if !paths.relax(moves) {
                break;
            }
        }
        paths
    }

    /// Lengthens every chain by one move where that is cheaper; says whether any was.
    fn relax(&mut self, moves: &[Vec<Option<Move>>]) -> bool {
        let mut changed = false;
        for (from, row) in moves.iter().enumerate() {
            let start = self.distance(from);
            if start == UNREACHED {
                continue;
            }
            let places = self.distance.iter_mut().zip(&mut self.before);
            for ((distance, before), step) in places.zip(row) {
                let Some(step) = step else { continue };
                if start + step.cost < *distance {
                    *distance = start + step.cost;
                    *before = Some((from, step.partition));
                    changed = true;
                }
            }
        }
        changed
    }

    fn distance(&self, store: usize) -> i64 {
        self.distance.get(store).copied().unwrap_or(UNREACHED)
    }

    /// The last move of the chain to a store: where it comes from, and which copy.
    fn before(&self, store: usize) -> Option<(usize, usize)> {
        self.before.get(store).copied().flatten()
    }
}

fn add(shares: &mut [usize], store: usize) {
    if let Some(share) = shares.get_mut(store) {
        *share += 1;
    }
}

fn set(held: &mut [bool], store: usize, value: bool) {
    if let Some(place) = held.get_mut(store) {
        *place = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_five_percent_or_the_next_whole_numbers() {
        assert_eq!(bounds(2048, 4), (487, 537));
        assert_eq!(bounds(10, 4), (2, 3));
        assert_eq!(bounds(0, 0), (0, 0));
    }

    #[test]
    fn the_copy_that_has_the_shortest_way_gives_way() {
        let costs = vec![vec![0, 9], vec![0, 3], vec![0, 5], vec![0, 7]];
        let mut balance = Balance::nearest(costs, 1);
        balance.settle();
        let chosen: Vec<Vec<usize>> = balance.chosen().map(Iterator::collect).collect();
        assert_eq!(chosen, [[0], [1], [1], [0]]);
    }
}
