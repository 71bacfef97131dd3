//! What a [`Latency`](super::Latency) had recorded at one moment, as plain data: quantiles by `hdrhistogram`, the
//! difference between two moments, and counts below chosen bounds. For whoever watches; the control thread never comes
//! here.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Durations counted in narrow buckets. Those that are empty are left out, so that many of these can be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// The middle of each bucket in nanoseconds, and the durations in it; ascending.
    buckets: Vec<(u64, u64)>,
    max_ns: u64,
}

impl Distribution {
    /// `buckets` has the middle of each bucket in nanoseconds, ascending, and the durations in it. `max_ns` is the largest
    /// duration.
    pub(super) fn new(buckets: Vec<(u64, u64)>, max_ns: u64) -> Self {
        Self { buckets, max_ns }
    }

    /// What was recorded after `before`, an earlier moment of the same latency. Its largest duration is known as
    /// exactly as its bucket is wide.
    pub fn since(&self, before: &Self) -> Self {
        let mut earlier = before.buckets.iter().peekable();
        let mut buckets = Vec::new();
        for &(middle, count) in &self.buckets {
            while earlier.next_if(|(other, _)| *other < middle).is_some() {}
            let already = earlier.next_if(|(other, _)| *other == middle).map_or(0, |(_, count)| *count);
            // The counts of one bucket only grow.
            if count > already {
                buckets.push((middle, count - already));
            }
        }
        let max_ns = buckets.last().map_or(0, |(middle, _)| (*middle).min(self.max_ns));
        let max_ns = if self.max_ns > before.max_ns { self.max_ns } else { max_ns };
        Self { buckets, max_ns }
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum()
    }

    /// Their sum in seconds, as exact as the buckets are narrow.
    pub fn sum_s(&self) -> f64 {
        self.buckets.iter().map(|(middle, count)| *middle as f64 / 1e9 * *count as f64).sum()
    }

    /// How many durations are within each of the ascending bounds, beyond the bound before; and at the end those beyond
    /// all of them.
    pub fn between(&self, bounds_s: &[f64]) -> Vec<u64> {
        let mut counts = vec![0; bounds_s.len() + 1];
        for &(middle, count) in &self.buckets {
            let seconds = middle as f64 / 1e9;
            counts[bounds_s.partition_point(|bound| *bound < seconds)] += count;
        }
        counts
    }

    /// The same as an HDR histogram of nanoseconds with three significant digits.
    pub fn histogram(&self) -> Histogram<u64> {
        const DIGITS: u8 = 3;
        let mut histogram = Histogram::new_with_max(self.max_ns.max(2), DIGITS)
            .expect("3 digits and a maximum of at least 2 are always possible");
        for &(middle, count) in &self.buckets {
            // The middle of the last bucket may lie above the largest duration.
            histogram.saturating_record_n(middle.min(self.max_ns), count);
        }
        histogram
    }

    /// The usual quantiles.
    pub fn summary(&self) -> LatencySummary {
        let histogram = self.histogram();
        let quantile_ms = |quantile| histogram.value_at_quantile(quantile).min(self.max_ns) as f64 / 1e6;
        LatencySummary {
            count: histogram.len(),
            mean_ms: histogram.mean() / 1e6,
            p50_ms: quantile_ms(0.50),
            p90_ms: quantile_ms(0.90),
            p99_ms: quantile_ms(0.99),
            p999_ms: quantile_ms(0.999),
            max_ms: self.max_ns as f64 / 1e6,
        }
    }
}

/// Quantiles of a [`Distribution`], zero while nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencySummary {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// Columns as in the tables of [`super::Snapshot`], which have no room for all of them.
impl fmt::Display for LatencySummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, p50_ms, p90_ms, p99_ms, max_ms, .. } = self;
        write!(f, "{count:>8} {p50_ms:>10.2} {p90_ms:>10.2} {p99_ms:>10.2} {max_ms:>10.2}")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Latency;
    use super::*;

    fn record(latency: &Latency, ms: impl IntoIterator<Item = u64>) {
        ms.into_iter().for_each(|ms| latency.record(Duration::from_millis(ms)));
    }

    #[test]
    fn an_interval_has_what_came_after_the_look_before() {
        let latency = Latency::new();
        record(&latency, [1, 5, 5, 100]);
        let before = latency.distribution();
        assert_eq!(latency.distribution().since(&before), Distribution::default());
        record(&latency, [5, 20, 20]);
        let summary = latency.distribution().since(&before).summary();
        assert_eq!(summary.count, 3);
        assert!((summary.p50_ms / 20.0 - 1.0).abs() < 0.003 && (summary.max_ms / 20.0 - 1.0).abs() < 0.003);
        record(&latency, [200]);
        let interval = latency.distribution().since(&before);
        assert_eq!((interval.count(), interval.summary().max_ms), (4, 200.0));
        assert_eq!(latency.distribution().since(&Distribution::default()), latency.distribution());
    }

    #[test]
    fn counts_between_bounds_add_up() {
        let latency = Latency::new();
        record(&latency, [1, 4, 6, 49, 51, 5000]);
        let distribution = latency.distribution();
        assert_eq!(distribution.between(&[0.005, 0.05, 1.0]), [2, 2, 1, 1]);
        assert_eq!(distribution.count(), 6);
        assert!((distribution.sum_s() / 5.111 - 1.0).abs() < 0.002);
    }
}
