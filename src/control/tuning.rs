//! Changes while the loop runs: what a person may set then, handed to the control thread and to the output through
//! mailboxes. Called by whoever serves parameters (`node`); never by the control thread.
//!
//! Both ends look at their mailbox before they decide anything, so a change holds from the next look on, for all of it at
//! once, and nobody waits for anybody.

use std::sync::Arc;

use super::cycle::Timing;
use super::limits::{Limits, LimitsError};
use super::mailbox::Sender;
use super::output::Rules;
use super::witness::Witness;
use crate::settings::{Settings, Value};

/// Lets somebody change a running loop.
pub struct Tuner {
    timing: Sender<Timing>,
    rules: Sender<Rules>,
    /// Changes so far.
    number: u32,
    pub(super) witness: Option<Arc<dyn Witness>>,
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

    pub(super) fn new(timing: Sender<Timing>, rules: Sender<Rules>) -> Self {
        Self { timing, rules, number: 0, witness: None }
    }

    /// From now on the loop runs so. `changes` are the parameters that made the difference.
    pub fn apply(&mut self, change: Change, changes: &[(&str, Value)]) {
        self.number += 1;
        if let Some(witness) = &self.witness {
            witness.changed(changes);
        }
        *self.timing.buffer() = change.timing;
        self.timing.send();
        *self.rules.buffer() = Rules { number: self.number, ..change.rules };
        self.rules.send();
    }

    /// How many changes there were.
    pub fn number(&self) -> u32 {
        self.number
    }
}
