//! What the control thread records into was touched before: no record waits until the system has found a page for it.
//!
//! Only an optimised build leaves zeros to the system instead of writing them, so this says something with `--release`.

use std::time::Duration;

use pi0_node::telemetry::{CycleRecord, KEPT_CYCLES, Metrics, Stage};

/// The metrics have some 1500 pages. A few faults may be the system's own doing: it moves and joins pages.
const TOLERATED: i64 = 8;

#[test]
fn recording_touches_no_new_page() {
    let metrics = Metrics::new(["camera"]);
    // The code's own pages.
    metrics.record(Stage::Act, Duration::ZERO);
    metrics.cycle_finished(&CycleRecord::default());

    let before = page_faults();
    for stage in Stage::ALL {
        // Every histogram from end to end: its buckets are at most a 2^9th of their value wide.
        let mut ns = 1.0;
        while ns < 1e12 {
            metrics.record(stage, Duration::from_nanos(ns as u64));
            ns *= 1.01;
        }
    }
    (0..KEPT_CYCLES).for_each(|_| metrics.cycle_finished(&CycleRecord::default()));
    let faults = page_faults() - before;
    assert!(faults <= TOLERATED, "{faults} page faults");
}

/// Of this thread, so far.
fn page_faults() -> i64 {
    // SAFETY: plain numbers; all of them zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a system call that writes into `usage`, which outlives it.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(result, 0);
    usage.ru_minflt + usage.ru_majflt
}
