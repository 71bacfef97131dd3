//! How many denoising steps a chunk gets: the most that are expected to fit into the time left. Asked by the cycle
//! before each act.
//!
//! What is expected comes from the last acts alone, those of the warm-up left out: they are slower than any that follow.

use std::time::Duration;

/// Acts that are remembered for each number of steps: about two seconds.
const REMEMBERED: usize = 64;
/// After so many acts of other numbers of steps, what is remembered says nothing about now.
const FORGOTTEN_AFTER: u64 = 64;
/// Share of acts that are no slower than expected.
const QUANTILE: f64 = 0.9;

/// The choice between several numbers of denoising steps.
#[derive(Debug)]
pub(super) struct StepChooser {
    /// The largest first.
    counts: Vec<usize>,
    recent: Vec<Recent>,
    /// Number of the act that comes next.
    next: u64,
    /// The choice of the last act.
    last: Option<usize>,
}

impl StepChooser {
    /// `counts` are numbers of steps, the largest first.
    pub fn new(counts: &[usize]) -> Self {
        let recent = counts.iter().map(|_| Recent::default()).collect();
        Self { counts: counts.to_vec(), recent, next: 0, last: None }
    }

    /// The position of the largest number of steps that is expected to need at most `left_ms`; of the smallest if none
    /// is; of the largest while nothing is known.
    pub fn choose(&self, left_ms: f64) -> usize {
        let fits = |choice: &usize| self.expected_ms(*choice).is_none_or(|expected| expected <= left_ms);
        let smallest = self.counts.len().saturating_sub(1);
        (0..self.counts.len()).find(fits).unwrap_or(smallest)
    }

    /// How long an act of this choice takes, most of the time.
    pub fn expected_ms(&self, choice: usize) -> Option<f64> {
        if self.is_known(choice) {
            return Some(self.recent[choice].quantile_ms());
        }
        // Time grows at most in proportion with the steps: a larger number is never tried on too little.
        let last = self.last?;
        let ratio = self.counts[choice] as f64 / self.counts[last] as f64;
        Some(self.recent[last].quantile_ms() * ratio)
    }

    /// Remembers how long an act of this choice took.
    pub fn record(&mut self, choice: usize, took: Duration) {
        if !self.is_known(choice) {
            self.recent[choice] = Recent::default();
        }
        self.recent[choice].add(took.as_secs_f64() * 1e3, self.next);
        self.last = Some(choice);
        self.next += 1;
    }

    fn is_known(&self, choice: usize) -> bool {
        let recent = &self.recent[choice];
        recent.count > 0 && self.next - recent.newest <= FORGOTTEN_AFTER
    }
}

/// The last acts of one number of steps.
#[derive(Clone, Debug)]
struct Recent {
    ms: [f64; REMEMBERED],
    /// Acts ever; the oldest make room.
    count: usize,
    /// Number of the newest act.
    newest: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { ms: [0.0; REMEMBERED], count: 0, newest: 0 }
    }
}

impl Recent {
    fn add(&mut self, ms: f64, act: u64) {
        self.ms[self.count % REMEMBERED] = ms;
        self.count += 1;
        self.newest = act;
    }

    fn quantile_ms(&self) -> f64 {
        let mut sorted = self.ms;
        let sorted = &mut sorted[..self.count.min(REMEMBERED)];
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() as f64 * QUANTILE).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chooser that has seen 10 steps take 20 ms, 8 take 16, 5 take 10.
    fn chooser() -> StepChooser {
        let mut chooser = StepChooser::new(&[10, 8, 5]);
        for (choice, ms) in [20, 16, 10].into_iter().enumerate() {
            chooser.record(choice, Duration::from_millis(ms));
        }
        chooser
    }

    fn chosen(chooser: &StepChooser, left_ms: f64) -> usize {
        chooser.counts[chooser.choose(left_ms)]
    }

    #[test]
    fn the_largest_number_that_fits_is_chosen() {
        let chooser = chooser();
        let chosen = [30.0, 20.0, 19.9, 12.0, 3.0, -5.0].map(|left_ms| chosen(&chooser, left_ms));
        assert_eq!(chosen, [10, 10, 8, 5, 5, 5]);
    }

    #[test]
    fn while_nothing_is_known_the_largest_is_tried() {
        assert_eq!(chosen(&StepChooser::new(&[10, 5]), 1.0), 10);
    }

    #[test]
    fn one_slow_act_changes_nothing_but_many_do() {
        let mut chooser = chooser();
        (0..30).for_each(|_| chooser.record(0, Duration::from_millis(20)));
        chooser.record(0, Duration::from_millis(200));
        assert_eq!(chosen(&chooser, 25.0), 10);
        (0..10).for_each(|_| chooser.record(0, Duration::from_millis(40)));
        assert_eq!(chosen(&chooser, 25.0), 8);
    }

    #[test]
    fn a_number_that_was_too_slow_comes_back_when_smaller_ones_say_so() {
        let mut chooser = chooser();
        (0..20).for_each(|_| chooser.record(0, Duration::from_millis(40)));
        (0..63).for_each(|_| chooser.record(1, Duration::from_millis(16)));
        assert_eq!(chosen(&chooser, 22.0), 8);
        // What 10 steps took is too long ago now: 8 take 16 ms, so 10 take 20 at most.
        chooser.record(1, Duration::from_millis(16));
        assert_eq!(chosen(&chooser, 22.0), 10);
        assert_eq!(chosen(&chooser, 19.0), 8);
        chooser.record(0, Duration::from_millis(20));
        assert_eq!(chooser.expected_ms(0), Some(20.0));
    }
}
