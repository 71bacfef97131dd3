//! From what a policy's actions are relative to, to positions: differences from the state, velocities, or nothing. Called by
//! `control`; `to_positions` and `to_actions` on the control thread, where nothing here allocates.

use super::delta::{DeltaError, DeltaMask};
use super::stats::RelativeStep;
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
        Self::with_mask(delta, VelocitySteps::new(velocity_step, joints)?, joints)
    }

    /// As [`Self::new`] with what a checkpoint says: the mask follows from it, and a mask that contradicts it is an error.
    pub fn of_checkpoint(
        step: Option<&RelativeStep>,
        delta_actions: &[i64],
        velocity_step: &[f64],
        joints: &[String],
    ) -> Result<Self, RelativeActionsError> {
        let Some(step) = step else { return Self::new(delta_actions, velocity_step, joints.len()) };
        step.check_order(joints)?;
        let said = step.mask(joints)?;
        if !delta_actions.is_empty() {
            let given = DeltaMask::from_openpi(delta_actions, joints.len())?;
            if let Some(joint) = (0..joints.len()).find(|&joint| given.has(joint) != said[joint]) {
                let (joint, relative) = (joints[joint].clone(), said[joint]);
                let mask = DeltaMask::new(said).to_openpi();
                return Err(RelativeActionsError::Contradiction { joint, relative, mask });
            }
        }
        Self::with_mask(DeltaMask::new(said), VelocitySteps::new(velocity_step, joints.len())?, joints.len())
    }

    fn with_mask(
        delta: DeltaMask,
        velocity: VelocitySteps,
        joints: usize,
    ) -> Result<Self, RelativeActionsError> {
        match (0..joints).find(|&joint| delta.has(joint) && velocity.has(joint)) {
            Some(joint) => Err(VelocityError::Both { joint }.into()),
            None => Ok(Self { delta, velocity }),
        }
    }

    /// How many joints' actions are differences from the state.
    pub fn differences(&self) -> usize {
        self.delta.count()
    }

    /// Makes `actions` `[horizon, joints]` positions, from the `state` `[joints]` that the policy saw; in the model's units.
    pub fn to_positions(&self, state: &[f64], actions: &mut [f64]) {
        self.delta.add_state(state, actions);
        self.velocity.add_up(state, actions);
    }

    /// Makes positions actions again: the other way of [`Self::to_positions`], from any state.
    pub fn to_actions(&self, state: &[f64], positions: &mut [f64]) {
        self.velocity.take_apart(state, positions);
        self.delta.subtract_state(state, positions);
    }
}

impl RelativeStep {
    /// That the robot's joints stand where those of these names stood in training, as far as names tell.
    fn check_order(&self, joints: &[String]) -> Result<(), RelativeActionsError> {
        // lerobot's robots call a joint's position `waist.pos`.
        let name = |name: &String| name.strip_suffix(".pos").unwrap_or(name).to_owned();
        let trained: Vec<String> = self.action_names.iter().flatten().map(name).collect();
        let misplaced = joints.iter().enumerate().find(|(place, joint)| {
            trained.iter().position(|name| name == *joint).is_some_and(|trained| trained != *place)
        });
        match misplaced {
            None => Ok(()),
            Some((place, joint)) => {
                Err(RelativeActionsError::OtherOrder { joint: joint.clone(), place: place + 1, trained })
            }
        }
    }

    /// Which of the robot's joints have relative actions. As lerobot does it: all, but those in whose names in training one
    /// of the excluded ones occurs, whatever its case; the names are the actions' in their order.
    fn mask(&self, joints: &[String]) -> Result<Vec<bool>, RelativeActionsError> {
        if !self.enabled {
            return Ok(vec![false; joints.len()]);
        }
        if let Some(map) =
            self.state_action_index_map.as_ref().filter(|map| !map.iter().copied().eq(0..map.len()))
        {
            return Err(RelativeActionsError::OtherStates { map: map.clone() });
        }
        let excluded: Vec<String> = self
            .exclude_joints
            .iter()
            .filter(|name| !name.is_empty())
            .map(|name| name.to_lowercase())
            .collect();
        let Some(names) = self.action_names.as_ref().filter(|_| !excluded.is_empty()) else {
            return Ok(vec![true; joints.len()]);
        };
        if names.len() != joints.len() {
            return Err(RelativeActionsError::OtherJoints { trained: names.clone(), joints: joints.len() });
        }
        let is_relative = |name: &String| {
            let name = name.to_lowercase();
            !excluded.iter().any(|excluded| name.contains(excluded.as_str()))
        };
        Ok(names.iter().map(is_relative).collect())
    }
}

/// Parameters that do not say what the actions are.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RelativeActionsError {
    #[error(transparent)]
    Delta(#[from] DeltaError),
    #[error(transparent)]
    Velocity(#[from] VelocityError),
    #[error(
        "delta_actions contradicts the checkpoint, which says that the actions of {joint} are {}: leave delta_actions out (it \
         would be {mask:?})",
        if *.relative { "differences from the state" } else { "positions" }
    )]
    Contradiction { joint: String, relative: bool, mask: Vec<i64> },
    #[error(
        "the checkpoint's relative actions are of {} joints ({}), but {joints} are configured: is it another robot's?",
        .trained.len(), .trained.join(", ")
    )]
    OtherJoints { trained: Vec<String>, joints: usize },
    #[error(
        "{joint} is the joint number {place}, but was another one in training: the order there was {}", .trained.join(", ")
    )]
    OtherOrder { joint: String, place: usize, trained: Vec<String> },
    #[error(
        "the checkpoint's actions are relative to the states {map:?} (state_action_index_map): only those that are relative to \
         the state of their own joint are supported"
    )]
    OtherStates { map: Vec<usize> },
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

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_mask_follows_from_the_checkpoint_and_must_not_be_contradicted() {
        let step = RelativeStep {
            enabled: true,
            exclude_joints: names(&["Gripper", ""]),
            action_names: Some(names(&["waist.pos", "elbow.pos", "gripper.pos"])),
            state_action_index_map: None,
        };
        let joints = names(&["arm_waist", "arm_elbow", "arm_hand"]);
        let mask = |step: &RelativeStep, given: &[i64]| {
            RelativeActions::of_checkpoint(Some(step), given, &[], &joints)
                .map(|actions| [0, 1, 2].map(|joint| actions.delta.has(joint)))
                .map_err(|error| error.to_string())
        };
        assert_eq!(mask(&step, &[]), Ok([true, true, false]));
        assert_eq!(mask(&step, &[2, -1]), Ok([true, true, false]));
        assert_eq!(
            mask(&step, &[3]).unwrap_err(),
            "delta_actions contradicts the checkpoint, which says that the actions of arm_hand are positions: leave \
             delta_actions out (it would be [2, -1])"
        );
        // Without names in training nothing could be excluded.
        let nameless = RelativeStep { action_names: None, ..step.clone() };
        assert_eq!(mask(&nameless, &[]), Ok([true; 3]));
        let disabled = RelativeStep { enabled: false, ..step.clone() };
        assert_eq!(mask(&disabled, &[]), Ok([false; 3]));
        assert!(mask(&disabled, &[2, -1]).unwrap_err().contains("the actions of arm_waist are positions"));
        let other = RelativeStep { action_names: Some(names(&["gripper"])), ..step.clone() };
        assert_eq!(
            mask(&other, &[]).unwrap_err(),
            "the checkpoint's relative actions are of 1 joints (gripper), but 3 are configured: is it another robot's?"
        );
        let interleaved = RelativeStep { state_action_index_map: Some(vec![0, 2, 4]), ..step.clone() };
        assert!(mask(&interleaved, &[]).unwrap_err().contains("relative to the states [0, 2, 4]"));
        let identical = RelativeStep { state_action_index_map: Some(vec![0, 1, 2]), ..step };
        assert_eq!(mask(&identical, &[]), Ok([true, true, false]));
    }
}
