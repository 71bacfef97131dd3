//! Changes while the loop runs: what a person may set then, handed to the control thread and to the output through
//! mailboxes. Called by whoever serves parameters (`node`); never by the control thread.
//!
//! Both ends look at their mailbox before they decide anything, so a change holds from the next look on, for all of it at
//! once, and nobody waits for anybody.

use super::cycle::Timing;
use super::limits::{Limits, LimitsError};
use super::mailbox::Sender;
use super::output::Rules;
use crate::settings::Settings;

/// Lets somebody change a running loop.
#[derive(Debug)]
pub struct Tuner {
    pub(super) timing: Sender<Timing>,
    pub(super) rules: Sender<Rules>,
}

/// Settings that the loop can have: nothing can fail any more.
#[derive(Debug)]
pub struct Change {
    timing: Timing,
    rules: Rules,
}

impl Tuner {
    /// What of `settings` can change while the loop runs. Reads the URDF, if there is one.
    pub fn prepare(settings: &Settings) -> Result<Change, LimitsError> {
        let limits = Limits::new(&settings.limits, &settings.joints)?;
        Ok(Change { timing: Timing::new(settings), rules: Rules::new(settings, limits) })
    }

    /// From now on the loop runs so.
    pub fn apply(&mut self, change: Change) {
        *self.timing.buffer() = change.timing;
        self.timing.send();
        *self.rules.buffer() = change.rules;
        self.rules.send();
    }
}
