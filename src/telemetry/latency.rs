//! How long something takes, as a histogram of atomic buckets. Recorded by the control thread and by edges, read as a
//! [`Distribution`].
//!
//! The buckets are allocated once and `record` is one atomic addition, so no reader ever holds a writer up.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::AtomicHistogram;

use super::distribution::{Distribution, LatencySummary};

/// A bucket is at most 1/2^9 of its value wide: 0.2 %.
const GROUPING_POWER: u8 = 9;
/// Durations up to 2^40 ns, 18 minutes; longer ones count as that.
const MAX_VALUE_POWER: u8 = 40;
const MAX_NS: u64 = (1 << MAX_VALUE_POWER) - 1;

/// A histogram of durations.
#[derive(Debug)]
pub struct Latency {
    buckets: AtomicHistogram,
    max_ns: AtomicU64,
}

impl Latency {
    pub fn new() -> Self {
        let buckets = AtomicHistogram::new(GROUPING_POWER, MAX_VALUE_POWER);
        let buckets = buckets.expect("the constants above are a valid configuration");
        // The system gives a page when it is first written to, and rare durations would make a cycle wait for that.
        for bucket in buckets.load().iter() {
            let _ = buckets.add(bucket.start(), black_box(0));
        }
        Self { buckets, max_ns: AtomicU64::new(0) }
    }

    /// Adds one duration. Neither locks nor allocates.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).map_or(MAX_NS, |ns| ns.min(MAX_NS));
        // Cannot fail: the value lies within the histogram's range.
        let _ = self.buckets.increment(ns);
        // Nearly always it is none, and looking costs less than an atomic maximum.
        if ns > self.max_ns.load(Relaxed) {
            self.max_ns.fetch_max(ns, Relaxed);
        }
    }

    /// What was recorded so far, bucket by bucket.
    pub fn distribution(&self) -> Distribution {
        let buckets = self.buckets.load();
        let used = buckets.iter().filter(|bucket| bucket.count() > 0);
        let counted =
            used.map(|bucket| (bucket.start() + (bucket.end() - bucket.start()) / 2, bucket.count()));
        Distribution::new(counted.collect(), self.max_ns.load(Relaxed))
    }

    /// The quantiles of what was recorded so far.
    pub fn summary(&self) -> LatencySummary {
        self.distribution().summary()
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// A duration in milliseconds; a negative one (clocks that disagree) is zero.
pub fn from_ms(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms.max(0.0) / 1e3).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let latency = Latency::new();
        (1..=1000).for_each(|ms| latency.record(Duration::from_millis(ms)));
        let summary = latency.summary();
        assert_eq!((summary.count, summary.max_ms), (1000, 1000.0));
        let found = [summary.p50_ms, summary.p90_ms, summary.p99_ms, summary.p999_ms, summary.mean_ms];
        for (found, expected) in found.into_iter().zip([500.0, 900.0, 990.0, 999.0, 500.5]) {
            assert!((found / expected - 1.0_f64).abs() < 0.003, "{found} instead of {expected}");
        }
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Latency::new().summary(), LatencySummary::default());
    }

    #[test]
    fn impossible_durations_count_as_the_nearest_possible_one() {
        let latency = Latency::new();
        for ms in [-5.0, f64::NAN, f64::INFINITY] {
            latency.record(from_ms(ms));
        }
        latency.record(Duration::MAX);
        let summary = latency.summary();
        assert_eq!(summary.count, 4);
        assert_eq!(summary.max_ms, MAX_NS as f64 / 1e6);
    }
}
