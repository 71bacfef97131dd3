//! From what a policy's actions are relative to, to positions: differences from the state, velocities, or nothing. Called by
//! `control`; `to_positions` on the control thread, where nothing here allocates.

use super::delta::{DeltaError, DeltaMask};
use super::velocity::{VelocityError, VelocitySteps};

/// What the actions of each joint are.
#[derive(Clone, Debug, PartialEq)]
pub struct RelativeActions {
    delta: DeltaMask,
    velocity: VelocitySteps,
}

impl RelativeActions {
    /// openpi's mask of differences, and what a velocity of 1 does between two points.
    pub fn new(
        delta_actions: &[i64],
        velocity_step: &[f64],
        joints: usize,
    ) -> Result<Self, RelativeActionsError> {
        let delta = DeltaMask::from_openpi(delta_actions, joints)?;
        let velocity = VelocitySteps::new(velocity_step, joints)?;
        match (0..joints).find(|&joint| delta.has(joint) && velocity.has(joint)) {
            Some(joint) => Err(VelocityError::Both { joint }.into()),
            None => Ok(Self { delta, velocity }),
        }
    }

    /// Makes `actions` `[horizon, joints]` positions, from the `state` `[joints]` that the policy saw; in the model's units.
    pub fn to_positions(&self, state: &[f64], actions: &mut [f64]) {
        self.delta.add_state(state, actions);
        self.velocity.add_up(state, actions);
    }
}

/// Parameters that do not say what the actions are.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RelativeActionsError {
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Velocity(#[from] VelocityError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_is_a_difference_a_velocity_or_absolute() {
        let actions = RelativeActions::new(&[1, -2], &[0.0, 0.5, 0.0], 3).unwrap();
        let mut points = [0.1, 1.0, 0.7, 0.2, 1.0, 0.8];
        actions.to_positions(&[1.0, 2.0, 3.0], &mut points);
        assert_eq!(points, [1.1, 2.5, 0.7, 1.2, 3.0, 0.8]);
        let both = RelativeActions::new(&[1, -2], &[0.1, 0.5, 0.0], 3).unwrap_err().to_string();
        assert!(both.contains("joint 0 (counted from 0)"), "{both}");
    }
}
