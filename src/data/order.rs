//! Which problems a step works on: a pure function of (seed, step), so that a resumed run goes on where it was.

use super::draw::shuffle;
use crate::rng::{Purpose, stream};

/// The order of `count` problems over all steps of a run. Every epoch visits every problem once, and no step has a
/// problem twice, not even a step that lies across two epochs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProblemOrder {
    seed: u64,
    count: usize,
    per_step: usize,
    shuffled: bool,
}

impl ProblemOrder {
    /// `per_step` problems a step out of `count`; all of them in every step if there are fewer. `shuffled` draws a new
    /// order for every epoch from the run's seed, else the file's order is kept.
    pub fn new(seed: u64, count: usize, per_step: usize, shuffled: bool) -> ProblemOrder {
        ProblemOrder { seed, count, per_step: per_step.min(count), shuffled }
    }

    /// Indices below `count` of the problems of a step, `step` from 0.
    pub fn step(&self, step: u64) -> Vec<usize> {
        if self.per_step == 0 {
            return Vec::new();
        }
        let (count, per_step) = (self.count as u64, self.per_step as u64);
        let first = step.saturating_mul(per_step);
        let mut chosen = Vec::with_capacity(self.per_step);
        let mut order = self.epoch(first / count);
        for position in first..first.saturating_add(per_step) {
            let place = (position % count) as usize;
            if place == 0 && position > first {
                order = self.epoch(position / count);
            }
            chosen.push(order[place]);
        }
        chosen
    }

    /// The order of one epoch, from 0.
    fn epoch(&self, epoch: u64) -> Vec<usize> {
        if !self.shuffled {
            return (0..self.count).collect();
        }
        // The start of an epoch depends on the end of the one before, but only where a step lies across both.
        let mut start = epoch;
        while start > 0 && self.carried(start) > 0 {
            start -= 1;
        }
        let mut order = self.draw(start);
        for next in start + 1..=epoch {
            let carried = self.carried(next);
            let tail = order[self.count - carried..].to_vec();
            order = self.draw(next);
            keep_apart(&mut order, &tail, self.per_step - carried);
        }
        order
    }

    /// Problems that the first step of this epoch has already taken from the one before.
    fn carried(&self, epoch: u64) -> usize {
        (u128::from(epoch) * self.count as u128 % self.per_step as u128) as usize
    }

    fn draw(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.count).collect();
        shuffle(&mut stream(self.seed, Purpose::DataOrder, &[epoch]), &mut order);
        order
    }
}

/// Moves what is in `tail` out of the first `head` places, by swapping it with the next problem that is not.
fn keep_apart(order: &mut [usize], tail: &[usize], head: usize) {
    let mut spare = head;
    for place in 0..head {
        if !tail.contains(&order[place]) {
            continue;
        }
        while tail.contains(&order[spare]) {
            spare += 1;
        }
        order.swap(place, spare);
        spare += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unshuffled_is_the_files_order() {
        let order = ProblemOrder::new(1, 5, 2, false);
        let steps: Vec<_> = (0..4).map(|step| order.step(step)).collect();
        assert_eq!(steps, [[0, 1], [2, 3], [4, 0], [1, 2]]);
    }

    #[test]
    fn a_seed_gives_one_order_and_epochs_differ() {
        let order = ProblemOrder::new(1, 100, 50, true);
        assert_eq!(order.step(7), ProblemOrder::new(1, 100, 50, true).step(7));
        assert_ne!(order.step(0), ProblemOrder::new(2, 100, 50, true).step(0));
        assert_ne!(order.step(0), order.step(2));
    }

    #[test]
    fn fewer_problems_than_a_step_takes() {
        let mut step = ProblemOrder::new(1, 3, 10, true).step(4);
        step.sort_unstable();
        assert_eq!(step, [0, 1, 2]);
        assert!(ProblemOrder::new(1, 0, 10, true).step(4).is_empty());
    }

    proptest! {
        #[test]
        fn epochs_are_complete_and_steps_without_repetition(
            seed: u64, count in 1..40usize, per_step in 1..40usize, shuffled: bool,
        ) {
            let order = ProblemOrder::new(seed, count, per_step, shuffled);
            let per_step = per_step.min(count);
            let mut all: Vec<usize> = Vec::new();
            for step in 0..(4 * count).div_ceil(per_step) {
                let mut chosen = order.step(step as u64);
                all.extend(&chosen);
                prop_assert_eq!(chosen.len(), per_step);
                chosen.sort_unstable();
                chosen.dedup();
                prop_assert_eq!(chosen.len(), per_step);
            }
            for epoch in all.chunks_exact(count) {
                let mut epoch = epoch.to_vec();
                epoch.sort_unstable();
                prop_assert_eq!(epoch, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
