//! From the robot's units to those that the model was trained in, joint by joint, and back: degrees, a gripper from 0 to 1
//! where ROS 2 has metres, a joint that turns the other way. Called on the control thread, where nothing here allocates.

/// `model = scale * robot + offset` for each joint.
#[derive(Clone, Debug, PartialEq)]
pub struct JointUnits(Vec<(f64, f64)>);

impl JointUnits {
    /// Lists with one number per joint; an empty one leaves scales at 1 or offsets at 0.
    pub fn new(scale: &[f64], offset: &[f64], joints: usize) -> Result<Self, UnitsError> {
        for (parameter, list) in [("joint_scale", scale), ("joint_offset", offset)] {
            if !list.is_empty() && list.len() != joints {
                return Err(UnitsError::Length { parameter, found: list.len(), joints });
            }
            if let Some(joint) = list.iter().position(|number| !number.is_finite()) {
                return Err(UnitsError::Value { parameter, joint, value: list[joint] });
            }
        }
        // Whatever the robot does, the model would see one and the same position; the way back has no answer at all.
        if let Some(joint) = scale.iter().position(|scale| scale.abs() < Self::SMALLEST) {
            return Err(UnitsError::Value { parameter: "joint_scale", joint, value: scale[joint] });
        }
        let of = |list: &[f64], joint: usize, otherwise| list.get(joint).copied().unwrap_or(otherwise);
        Ok(Self((0..joints).map(|joint| (of(scale, joint, 1.0), of(offset, joint, 0.0))).collect()))
    }

    const SMALLEST: f64 = 1e-9;

    /// Positions `[joints]` in the robot's units to the model's.
    pub fn to_model(&self, robot: &[f64], model: &mut [f64]) {
        for ((model, &robot), (scale, offset)) in model.iter_mut().zip(robot).zip(&self.0) {
            *model = robot * scale + offset;
        }
    }

    /// Positions `[points, joints]` in the model's units to the robot's, in place.
    pub fn to_robot(&self, points: &mut [f64]) {
        for point in points.chunks_exact_mut(self.0.len().max(1)) {
            for (position, (scale, offset)) in point.iter_mut().zip(&self.0) {
                *position = (*position - offset) / scale;
            }
        }
    }
}

/// Units that do not fit the robot.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum UnitsError {
    #[error("{parameter} must have one number for each of the {joints} joints, but has {found}")]
    Length { parameter: &'static str, found: usize, joints: usize },
    #[error(
        "{parameter} is {value} for joint {joint} (counted from 0); it must be a number, and a scale must not be 0"
    )]
    Value { parameter: &'static str, joint: usize, value: f64 },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gripper_in_metres_that_the_model_sees_inverted_from_0_to_1() {
        // Open is 0.04 m and 0, closed is 0 m and 1.
        let units = JointUnits::new(&[1.0, -25.0], &[0.0, 1.0], 2).unwrap();
        let mut model = [9.0; 2];
        units.to_model(&[0.3, 0.04], &mut model);
        assert_eq!(model, [0.3, 0.0]);
        units.to_model(&[0.3, 0.0], &mut model);
        assert_eq!(model, [0.3, 1.0]);
        let mut points = [0.3, 1.0, -0.2, 0.0];
        units.to_robot(&mut points);
        assert_eq!(points, [0.3, 0.0, -0.2, 0.04]);
    }

    #[test]
    fn degrees_and_back() {
        let units = JointUnits::new(&[180.0 / std::f64::consts::PI], &[], 1).unwrap();
        let mut model = [0.0];
        units.to_model(&[std::f64::consts::FRAC_PI_2], &mut model);
        assert!((model[0] - 90.0).abs() < 1e-12);
        units.to_robot(&mut model);
        assert!((model[0] - std::f64::consts::FRAC_PI_2).abs() < 1e-15);
    }

    #[test]
    fn without_lists_not_a_bit_changes() {
        let units = JointUnits::new(&[], &[], 2).unwrap();
        let positions = [0.1 + 0.2, -1e-300];
        let mut model = [0.0; 2];
        units.to_model(&positions, &mut model);
        assert_eq!(model.map(f64::to_bits), positions.map(f64::to_bits));
        units.to_robot(&mut model);
        assert_eq!(model.map(f64::to_bits), positions.map(f64::to_bits));
    }

    #[test]
    fn lists_must_fit_and_scales_must_not_vanish() {
        let refused =
            |scale: &[f64], offset: &[f64]| JointUnits::new(scale, offset, 2).unwrap_err().to_string();
        assert!(refused(&[1.0], &[]).contains("joint_scale must have one number for each of the 2 joints"));
        assert!(refused(&[], &[0.0; 3]).contains("joint_offset must have"));
        assert!(refused(&[1.0, 0.0], &[]).contains("joint_scale is 0 for joint 1"));
        assert!(refused(&[], &[f64::NAN, 0.0]).contains("joint_offset is NaN for joint 0"));
    }
}
