//! What took too long when a chunk misses its deadline. The cycle notes how long each stage took, the output judges.

use std::time::Duration;

use crate::telemetry::{CycleRecord, Stage};

/// The stages of a chunk's way: they follow each other, and their sum is the time from observation to publishing, but for
/// what overlaps when there are several cameras.
const WAY: [Stage; 9] = [
    Stage::Transport,
    Stage::Decode,
    Stage::SyncWait,
    Stage::Write,
    Stage::Perceive,
    Stage::Act,
    Stage::Readback,
    Stage::DecodeActions,
    Stage::Publish,
];

/// How long each stage of a chunk's way took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Parts([Duration; Stage::ALL.len()]);

impl Parts {
    pub fn set(&mut self, stage: Stage, took: Duration) {
        self.0[stage as usize] = took;
    }

    /// What is kept of a cycle that took so long.
    pub fn record(&self) -> CycleRecord {
        let mut record = CycleRecord::default();
        WAY.into_iter().for_each(|stage| record.set(stage, self.0[stage as usize]));
        record
    }

    fn ms(&self, stage: Stage) -> f64 {
        self.0[stage as usize].as_secs_f64() * 1e3
    }
}

/// Knows what chunks that were in time took, and blames what deviates most from that.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// Running means in milliseconds over chunks in time, by [`WAY`]; none before the first.
    usual_ms: Option<[f64; WAY.len()]>,
}

impl Blame {
    /// Weight of a new chunk in the running mean.
    const WEIGHT: f64 = 1.0 / 16.0;
    /// A stage has overrun when it took so much longer than usual; else the longest is to blame: the budget is too small.
    const OVERRUN_MS: f64 = 1.0;

    /// Takes in a chunk that was in time.
    pub fn in_time(&mut self, parts: &Parts) {
        let took = WAY.map(|stage| parts.ms(stage));
        let usual = self.usual_ms.get_or_insert(took);
        usual.iter_mut().zip(took).for_each(|(usual, ms)| *usual += Self::WEIGHT * (ms - *usual));
    }

    /// The stage that overran most.
    pub fn of(&self, parts: &Parts) -> Stage {
        let usual = self.usual_ms.unwrap_or_default();
        let longest = |beyond: &[f64; WAY.len()]| {
            let stages = WAY.into_iter().zip(beyond).map(|(stage, beyond)| (stage, parts.ms(stage) - beyond));
            stages.max_by(|(_, a), (_, b)| a.total_cmp(b)).unwrap_or((Stage::Act, 0.0))
        };
        let (worst, overrun_ms) = longest(&usual);
        if overrun_ms >= Self::OVERRUN_MS { worst } else { longest(&[0.0; WAY.len()]).0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(Stage, u64)]) -> Parts {
        let mut parts = Parts::default();
        list.iter().for_each(|&(stage, ms)| parts.set(stage, Duration::from_millis(ms)));
        parts
    }

    #[test]
    fn the_way_is_the_stages_that_add_up() {
        let stages = Stage::ALL.into_iter().filter(|stage| stage.adds_up());
        assert_eq!(stages.collect::<Vec<_>>(), WAY);
    }

    #[test]
    fn the_stage_that_took_longer_than_usual_is_to_blame() {
        let mut blame = Blame::default();
        let usual = [(Stage::Perceive, 30), (Stage::Act, 12), (Stage::Transport, 2)];
        (0..20).for_each(|_| blame.in_time(&parts(&usual)));
        let late = [(Stage::Perceive, 31), (Stage::Act, 13), (Stage::Transport, 20)];
        assert_eq!(blame.of(&parts(&late)), Stage::Transport);
    }

    #[test]
    fn when_all_is_as_usual_the_longest_stage_is_to_blame() {
        let usual = parts(&[(Stage::Perceive, 30), (Stage::Act, 12)]);
        let mut blame = Blame::default();
        assert_eq!(blame.of(&usual), Stage::Perceive);
        blame.in_time(&usual);
        assert_eq!(blame.of(&usual), Stage::Perceive);
    }
}
