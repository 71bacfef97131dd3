//! Stages, latency histograms, counters, and snapshots of them. The control thread and the edges record into one
//! shared [`Metrics`] without locks or allocation; whoever watches (tables, `/diagnostics`) takes a [`Snapshot`].

mod latency;
mod metrics;
mod snapshot;

pub use latency::{Latency, LatencySummary};
pub use metrics::{Counter, DropReason, Metrics, SensorMetrics, Stage};
pub use snapshot::{SensorSnapshot, Snapshot};
