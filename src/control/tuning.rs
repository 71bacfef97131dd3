//! Changes while the loop runs: what a person may set then, handed to the control thread, to the output and to the joint input
//! through mailboxes. Called by whoever serves parameters (`node`); never by the control thread.
//!
//! Each looks at its mailbox before it decides anything, so a change holds from the next look on, for all of it at
//! once, and nobody waits for anybody.

use std::sync::Arc;

use super::cycle::Timing;
use super::limits::{Limits, LimitsError};
use super::mailbox::Sender;
use super::output::Rules;
use super::witness::Witness;
use crate::policy::Continuation;
use crate::settings::{ChunkJoin, Settings, Value};

/// Lets somebody change a running loop.
pub struct Tuner {
    timing: Sender<Timing>,
    rules: Sender<Rules>,
    /// By joint: what the joint input judges jumps by.
    velocity_max: Sender<Vec<f64>>,
    /// What the model was compiled for.
    continuation: Continuation,
    /// Changes so far.
    number: u32,
    pub(super) witness: Option<Arc<dyn Witness>>,
}

/// Settings that the loop can have: nothing can fail any more.
#[derive(Debug)]
pub struct Change {
    timing: Timing,
    rules: Rules,
    velocity_max: Vec<f64>,
}

/// A change that a running loop cannot take.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Limits(#[from] LimitsError),
    #[error(
        "chunk_join: the model was not compiled for '{0}': set it before the node is configured (lifecycle: deactivate, cleanup, \
         set, configure)"
    )]
    Join(&'static str),
}

impl Tuner {
    /// What of `settings` can change while the loop runs. Reads the URDF, if there is one.
    pub fn prepare(&self, settings: &Settings) -> Result<Change, ChangeError> {
        let fits = match settings.chunk_join {
            ChunkJoin::Guided { .. } => matches!(self.continuation, Continuation::Guided { .. }),
            ChunkJoin::Trained { .. } => matches!(self.continuation, Continuation::Given { .. }),
            ChunkJoin::Auto { .. } => self.continuation != Continuation::Free,
            ChunkJoin::Replace | ChunkJoin::Blend { .. } => true,
        };
        if !fits {
            return Err(ChangeError::Join(settings.chunk_join.name()));
        }
        let limits = Limits::new(&settings.limits, &settings.joints)?;
        let velocity_max = limits.velocity_max().to_vec();
        Ok(Change { timing: Timing::new(settings), rules: Rules::new(settings, limits), velocity_max })
    }

    pub(super) fn new(
        timing: Sender<Timing>,
        rules: Sender<Rules>,
        velocity_max: Sender<Vec<f64>>,
        continuation: Continuation,
    ) -> Self {
        Self { timing, rules, velocity_max, continuation, number: 0, witness: None }
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
        *self.velocity_max.buffer() = change.velocity_max;
        self.velocity_max.send();
    }

    /// How many changes there were.
    pub fn number(&self) -> u32 {
        self.number
    }
}
