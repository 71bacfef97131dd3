//! What happens when the device refuses: the loop reports it, tells the robot to hold, and makes the model anew on a
//! fresh device, once. After a second refusal nothing is sent any more. Part of the cycle; the only one that may take
//! long.

use std::fmt::Display;

use super::assemble::AssembleError;
use super::cores::Cores;
use super::cycle::{Cycle, Outcome};
use super::model::Model;
use super::state::Phase;
use crate::device::DeviceError;
use crate::observe::messages::Stamp;
use crate::telemetry::DropReason;

/// Makes the model as it was made at first.
type Make = Box<dyn FnMut() -> Result<Model, AssembleError> + Send>;

/// The one attempt at a new device.
pub(super) struct Rebuild {
    make: Make,
    /// Of the thread that made the first model: the control thread may be kept on one of them.
    cores: Option<Cores>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unused,
    Used,
    Failed,
}

impl Rebuild {
    pub fn new(make: Make) -> Self {
        Self { make, cores: Cores::current().ok(), state: State::Unused }
    }

    /// Whether nothing is to be expected of the device any more.
    pub fn has_failed(&self) -> bool {
        self.state == State::Failed
    }
}

impl Cycle {
    /// Deals with a device that has refused.
    pub(super) fn recover(&mut self, error: &DeviceError, now: Stamp) -> Outcome {
        self.metrics.report("device", error);
        self.metrics.dropped(DropReason::Device);
        self.view = None;
        self.hold(DropReason::Device, now);
        match self.rebuild.state {
            State::Unused => {
                self.rebuild.state = State::Used;
                self.shared.set(Phase::Rebuilding, Some(DropReason::Device));
                match self.make_anew() {
                    Ok(()) => self.shared.set(Phase::Holding, Some(DropReason::Device)),
                    Err(error) => self.give_up(&error),
                }
            }
            State::Used | State::Failed => self.give_up(error),
        }
        self.shared.beat();
        Outcome::Dropped(DropReason::Device)
    }

    fn make_anew(&mut self) -> Result<(), AssembleError> {
        self.model.release();
        let Rebuild { make, cores, .. } = &mut self.rebuild;
        self.model = match cores {
            Some(cores) => cores.run(make)?,
            None => make()?,
        };
        let Some(prompt) = self.prompt.held() else { return Ok(()) };
        self.model.set_prompt(&prompt.tokens)?;
        let length = prompt.tokens.len();
        let lengths =
            self.state_writer.as_ref().map_or(length..=length, |writer| writer.lengths(&prompt.tokens));
        Ok(self.model.warm_up(lengths)?)
    }

    fn give_up(&mut self, error: &dyn Display) {
        self.metrics.report("device", &format_args!("{error}; it was made anew once, and is given up now"));
        self.rebuild.state = State::Failed;
        self.shared.set(Phase::Failed, Some(DropReason::Device));
    }
}
