//! What took too long when a chunk misses its deadline. The cycle notes how long each part took, the output judges.

use std::time::Duration;

use crate::telemetry::MissCause;

/// Milliseconds that each part of a chunk's way took, by [`MissCause`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Parts([f64; MissCause::ALL.len()]);

impl Parts {
    pub fn set(&mut self, part: MissCause, took: Duration) {
        self.set_ms(part, took.as_secs_f64() * 1e3);
    }

    pub fn set_ms(&mut self, part: MissCause, ms: f64) {
        self.0[part as usize] = ms;
    }
}

/// Knows what chunks that were in time took, and blames what deviates most from that.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// A running mean over chunks in time; none before the first.
    usual: Option<Parts>,
}

impl Blame {
    /// Weight of a new chunk in the running mean.
    const WEIGHT: f64 = 1.0 / 16.0;
    /// A part has overrun when it took so much longer than usual; else the longest is to blame: the budget is too small.
    const OVERRUN_MS: f64 = 1.0;

    /// Takes in a chunk that was in time.
    pub fn in_time(&mut self, parts: &Parts) {
        match &mut self.usual {
            None => self.usual = Some(*parts),
            Some(usual) => {
                usual
                    .0
                    .iter_mut()
                    .zip(parts.0)
                    .for_each(|(usual, ms)| *usual += Self::WEIGHT * (ms - *usual));
            }
        }
    }

    /// The part that overran most.
    pub fn of(&self, parts: &Parts) -> MissCause {
        let usual = self.usual.unwrap_or_default();
        let overrun = |cause: MissCause| parts.0[cause as usize] - usual.0[cause as usize];
        let most = |by: &dyn Fn(MissCause) -> f64| {
            MissCause::ALL.into_iter().max_by(|&a, &b| by(a).total_cmp(&by(b))).unwrap_or(MissCause::Act)
        };
        let worst = most(&overrun);
        if overrun(worst) >= Self::OVERRUN_MS { worst } else { most(&|cause| parts.0[cause as usize]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(MissCause, f64)]) -> Parts {
        let mut parts = Parts::default();
        list.iter().for_each(|&(part, ms)| parts.set_ms(part, ms));
        parts
    }

    #[test]
    fn the_part_that_took_longer_than_usual_is_to_blame() {
        let mut blame = Blame::default();
        let usual = [(MissCause::Perceive, 30.0), (MissCause::Act, 12.0), (MissCause::Transport, 2.0)];
        (0..20).for_each(|_| blame.in_time(&parts(&usual)));
        let late = [(MissCause::Perceive, 31.0), (MissCause::Act, 13.0), (MissCause::Transport, 20.0)];
        assert_eq!(blame.of(&parts(&late)), MissCause::Transport);
    }

    #[test]
    fn when_all_is_as_usual_the_longest_part_is_to_blame() {
        let usual = parts(&[(MissCause::Perceive, 30.0), (MissCause::Act, 12.0)]);
        let mut blame = Blame::default();
        assert_eq!(blame.of(&usual), MissCause::Perceive);
        blame.in_time(&usual);
        assert_eq!(blame.of(&usual), MissCause::Perceive);
    }
}
