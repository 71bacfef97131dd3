//! The signal to stop: SIGINT (Ctrl-C) and SIGTERM (launch systems, service managers) ask every thread to finish.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;

/// Set once, seen by every thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// One that SIGINT and SIGTERM set. Only one can be made per process.
    ///
    /// While `loading` is set, nothing looks at it and nothing has been promised to anybody: a signal ends the process.
    pub fn on_signals(loading: Arc<AtomicBool>) -> anyhow::Result<Self> {
        /// As a shell shows a process that Ctrl-C ended.
        const INTERRUPTED: i32 = 130;
        let stop = Self::default();
        let on_signal = stop.clone();
        ctrlc::set_handler(move || {
            on_signal.set();
            if loading.load(Relaxed) {
                // SAFETY: ends the process at once. Nothing is cleaned up, because other threads still use what would be.
                unsafe { libc::_exit(INTERRUPTED) };
            }
        })
        .context("cannot listen to SIGINT and SIGTERM")?;
        Ok(stop)
    }

    pub fn set(&self) {
        self.0.store(true, Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub fn flag(&self) -> &AtomicBool {
        &self.0
    }

    /// Sleeps until `time`. False when it is time to stop instead.
    pub fn sleep_until(&self, time: Instant) -> bool {
        const SLICE: Duration = Duration::from_millis(20);
        while !self.is_set() {
            match time.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(SLICE)),
                _ => return true,
            }
        }
        false
    }
}

/// Sets the stop when it goes out of scope: a thread that ends for whatever reason ends the node, not just itself.
pub struct StopOnDrop(pub Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.set();
    }
}
