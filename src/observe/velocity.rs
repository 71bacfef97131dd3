//! Velocity actions: a policy trained on velocities gives, for some joints, how fast to go instead of where to. The node
//! sends positions, so the velocities of a chunk are added up from the state that the policy saw.

/// What an action of 1 moves each joint by from one point to the next; 0 where actions are positions.
#[derive(Clone, Debug, PartialEq)]
pub struct VelocitySteps(Vec<f64>);

impl VelocitySteps {
    /// A step for each joint, in the model's units. Empty: every action is a position.
    pub fn new(steps: &[f64], joints: usize) -> Result<Self, VelocityError> {
        if steps.is_empty() {
            return Ok(Self(vec![0.0; joints]));
        }
        if steps.len() != joints {
            return Err(VelocityError::Length { found: steps.len(), joints });
        }
        match steps.iter().position(|step| !step.is_finite()) {
            Some(joint) => Err(VelocityError::Value { joint, value: steps[joint] }),
            None => Ok(Self(steps.to_vec())),
        }
    }

    /// Whether a joint's actions are velocities.
    pub fn has(&self, joint: usize) -> bool {
        self.0[joint] != 0.0
    }

    /// Turns velocities into positions: point i of `actions` `[horizon, joints]` is `state` `[joints]` plus the steps of
    /// points 0 to i. As DROID's robots do, which add the step of an action to where they are when it comes.
    pub fn add_up(&self, state: &[f64], actions: &mut [f64]) {
        let joints = self.0.len();
        for (joint, step) in self.0.iter().enumerate().filter(|(_, step)| **step != 0.0) {
            let mut position = state[joint];
            for action in actions[joint..].iter_mut().step_by(joints) {
                position += step * *action;
                *action = position;
            }
        }
    }

    /// Turns positions into velocities: the other way of [`Self::add_up`], from any state.
    pub fn take_apart(&self, state: &[f64], positions: &mut [f64]) {
        let joints = self.0.len();
        for (joint, step) in self.0.iter().enumerate().filter(|(_, step)| **step != 0.0) {
            let mut before = state[joint];
            // There may be no points at all.
            for position in positions.iter_mut().skip(joint).step_by(joints) {
                let here = *position;
                *position = (here - before) / step;
                before = here;
            }
        }
    }
}

/// Steps that do not fit the robot.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum VelocityError {
    #[error("velocity_step must have one number for each of the {joints} joints, but has {found}")]
    Length { found: usize, joints: usize },
    #[error("velocity_step is {value} for joint {joint} (counted from 0); it must be a number")]
    Value { joint: usize, value: f64 },
    #[error(
        "velocity_step and delta_actions both say what joint {joint} (counted from 0) does: an action is a velocity or a \
         difference, not both"
    )]
    Both { joint: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn velocities_add_up_from_the_state_and_grippers_do_not() {
        let steps = VelocitySteps::new(&[0.5, -0.25, 0.0], 3).unwrap();
        let mut actions = [1.0, 1.0, 0.9, 0.5, 0.0, 0.1, -1.0, 2.0, 0.5];
        steps.add_up(&[1.0, 2.0, 3.0], &mut actions);
        assert_eq!(actions, [1.5, 1.75, 0.9, 1.75, 1.75, 0.1, 1.25, 1.25, 0.5]);
    }

    #[test]
    fn positions_taken_apart_add_up_again_from_any_state() {
        let steps = VelocitySteps::new(&[0.5, -0.25, 0.0], 3).unwrap();
        let positions = [1.5, 1.75, 0.9, 1.75, 1.75, 0.1];
        for state in [[1.0, 2.0, 3.0], [-4.0, 0.5, 0.0]] {
            let mut found = positions;
            steps.take_apart(&state, &mut found);
            assert_eq!(found[2], 0.9);
            steps.add_up(&state, &mut found);
            assert_eq!(found, positions);
        }
        steps.take_apart(&[0.0; 3], &mut []);
    }

    #[test]
    fn without_steps_not_a_bit_changes() {
        let mut actions = [0.1, -0.2];
        VelocitySteps::new(&[], 2).unwrap().add_up(&[f64::NAN; 2], &mut actions);
        assert_eq!(actions, [0.1, -0.2]);
    }

    #[test]
    fn steps_must_fit_the_joints() {
        let refused = |steps: &[f64]| VelocitySteps::new(steps, 2).unwrap_err().to_string();
        assert!(refused(&[0.2]).contains("one number for each of the 2 joints, but has 1"));
        assert!(refused(&[0.2, f64::INFINITY]).contains("is inf for joint 1"));
    }
}
