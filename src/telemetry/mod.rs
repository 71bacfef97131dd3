//! Stages, latency histograms, counters, and snapshots of them. The control thread records without locks.
