//! Stages, latency histograms, counters, the last cycles, and snapshots of them. The control thread and the edges record
//! into one shared [`Metrics`] without locks or allocation; whoever watches (tables, `/diagnostics`, the dashboard) takes
//! a [`Snapshot`], [`Distribution`]s or the last cycles, and [`dump`] writes files.

mod complaints;
mod cycles;
mod distribution;
mod dump;
mod joins;
mod latency;
mod metrics;
mod names;
mod repeats;
mod snapshot;

pub use complaints::{Complaint, Complaints};
pub use cycles::{CycleRecord, CycleResult, FinishedCycle, KEPT_CYCLES};
pub use distribution::{Distribution, LatencySummary};
pub use dump::dump;
pub use joins::JoinSnapshot;
pub use latency::Latency;
pub use metrics::{Counter, Metrics, SensorMetrics};
pub use names::{DropReason, LatencyName, Stage};
pub use repeats::{LeftOut, Repeats};
pub use snapshot::{SensorSnapshot, Snapshot, Stamps};
