//! How long something takes, as a histogram of atomic buckets. Recorded by the control thread and by edges, read by
//! [`super::Snapshot`].
//!
//! The buckets are allocated once and `record` is one atomic addition, so no reader ever holds a writer up.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::AtomicHistogram;

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
        Self {
            buckets: buckets.expect("the constants above are a valid configuration"),
            max_ns: AtomicU64::new(0),
        }
    }

    /// Adds one duration. Neither locks nor allocates.
    pub fn record(&self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).map_or(MAX_NS, |ns| ns.min(MAX_NS));
        // Cannot fail: the value lies within the histogram's range.
        let _ = self.buckets.increment(ns);
        self.max_ns.fetch_max(ns, Relaxed);
    }

    /// Adds one duration in milliseconds; a negative one (clocks that disagree) counts as zero.
    pub fn record_ms(&self, ms: f64) {
        self.record(Duration::try_from_secs_f64(ms.max(0.0) / 1e3).unwrap_or(Duration::MAX));
    }

    /// What was recorded so far.
    pub fn summary(&self) -> LatencySummary {
        let buckets = self.buckets.load();
        let max_ns = self.max_ns.load(Relaxed);
        let quantile_ms = |quantile| match buckets.quantile_bucket(quantile) {
            Ok(Some(bucket)) => bucket.end().min(max_ns) as f64 / 1e6,
            _ => 0.0,
        };
        LatencySummary {
            count: buckets.as_slice().iter().sum(),
            p50_ms: quantile_ms(0.50),
            p90_ms: quantile_ms(0.90),
            p99_ms: quantile_ms(0.99),
            max_ms: max_ns as f64 / 1e6,
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self::new()
    }
}

/// Quantiles of a [`Latency`], zero while nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatencySummary {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// Columns as in the tables of [`super::Snapshot`].
impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            p50_ms,
            p90_ms,
            p99_ms,
            max_ms,
        } = self;
        write!(
            f,
            "{count:>8} {p50_ms:>10.2} {p90_ms:>10.2} {p99_ms:>10.2} {max_ms:>10.2}"
        )
    }
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
        for (found, expected) in [
            (summary.p50_ms, 500.0),
            (summary.p90_ms, 900.0),
            (summary.p99_ms, 990.0),
        ] {
            assert!(
                (found / expected - 1.0_f64).abs() < 0.003,
                "{found} instead of {expected}"
            );
        }
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(Latency::new().summary(), LatencySummary::default());
    }

    #[test]
    fn impossible_durations_count_as_the_nearest_possible_one() {
        let latency = Latency::new();
        latency.record_ms(-5.0);
        latency.record(Duration::MAX);
        latency.record_ms(f64::INFINITY);
        let summary = latency.summary();
        assert_eq!(summary.count, 3);
        assert_eq!(summary.max_ms, MAX_NS as f64 / 1e6);
    }
}
