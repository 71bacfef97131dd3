//! From the robot's units to those that the model was trained in, joint by joint, and back: degrees, a gripper from 0 to 1
//! where ROS 2 has metres, a joint that turns the other way. Called on the control thread, where nothing here allocates.

use super::aloha_gripper;

/// `model = conversion(scale * robot + offset)` for each joint.
#[derive(Clone, Debug, PartialEq)]
pub struct JointUnits(Vec<JointUnit>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct JointUnit {
    scale: f64,
    offset: f64,
    conversion: JointConversion,
}

/// What a scale and an offset cannot express.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JointConversion {
    /// Nothing.
    #[default]
    Linear,
    /// A gripper from 0 (closed) to 1 (open), for openpi's ALOHA models.
    AlohaGripper,
}

impl JointConversion {
    pub const ALL: [Self; 2] = [Self::Linear, Self::AlohaGripper];

    /// The name in the parameter.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::AlohaGripper => "aloha_gripper",
        }
    }

    fn to_model(self, position: f64) -> f64 {
        match self {
            Self::Linear => position,
            Self::AlohaGripper => aloha_gripper::to_model(position),
        }
    }

    fn to_robot(self, action: f64) -> f64 {
        match self {
            Self::Linear => action,
            Self::AlohaGripper => aloha_gripper::to_robot(action),
        }
    }
}

impl JointUnits {
    /// Lists with one entry per joint; an empty one leaves scales at 1, offsets at 0, conversions at linear.
    pub fn new(
        scale: &[f64],
        offset: &[f64],
        conversion: &[JointConversion],
        joints: usize,
    ) -> Result<Self, UnitsError> {
        let lengths = [
            ("joint_scale", scale.len()),
            ("joint_offset", offset.len()),
            ("joint_conversion", conversion.len()),
        ];
        if let Some((parameter, found)) =
            lengths.into_iter().find(|(_, found)| *found > 0 && *found != joints)
        {
            return Err(UnitsError::Length { parameter, found, joints });
        }
        for (parameter, list) in [("joint_scale", scale), ("joint_offset", offset)] {
            if let Some(joint) = list.iter().position(|number| !number.is_finite()) {
                return Err(UnitsError::Value { parameter, joint, value: list[joint] });
            }
        }
        // Whatever the robot does, the model would see one and the same position; the way back has no answer at all.
        if let Some(joint) = scale.iter().position(|scale| scale.abs() < Self::SMALLEST) {
            return Err(UnitsError::Value { parameter: "joint_scale", joint, value: scale[joint] });
        }
        let unit = |joint: usize| JointUnit {
            scale: scale.get(joint).copied().unwrap_or(1.0),
            offset: offset.get(joint).copied().unwrap_or(0.0),
            conversion: conversion.get(joint).copied().unwrap_or_default(),
        };
        Ok(Self((0..joints).map(unit).collect()))
    }

    const SMALLEST: f64 = 1e-9;

    /// Positions `[joints]` in the robot's units to the model's.
    pub fn to_model(&self, robot: &[f64], model: &mut [f64]) {
        for ((model, &robot), unit) in model.iter_mut().zip(robot).zip(&self.0) {
            *model = unit.conversion.to_model(robot * unit.scale + unit.offset);
        }
    }

    /// Positions `[points, joints]` in the model's units to the robot's, in place.
    pub fn to_robot(&self, points: &mut [f64]) {
        for point in points.chunks_exact_mut(self.0.len().max(1)) {
            for (position, unit) in point.iter_mut().zip(&self.0) {
                *position = (unit.conversion.to_robot(*position) - unit.offset) / unit.scale;
            }
        }
    }
}

/// Units that do not fit the robot.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum UnitsError {
    #[error("{parameter} must have one entry for each of the {joints} joints, but has {found}")]
    Length { parameter: &'static str, found: usize, joints: usize },
    #[error(
        "{parameter} is {value} for joint {joint} (counted from 0); it must be a number, and a scale must not be 0"
    )]
    Value { parameter: &'static str, joint: usize, value: f64 },
}

impl UnitsError {
    /// The parameter that is wrong.
    pub fn parameter(&self) -> &'static str {
        match self {
            Self::Length { parameter, .. } | Self::Value { parameter, .. } => parameter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gripper_in_metres_that_the_model_sees_inverted_from_0_to_1() {
        // Open is 0.04 m and 0, closed is 0 m and 1.
        let units = JointUnits::new(&[1.0, -25.0], &[0.0, 1.0], &[], 2).unwrap();
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
        let units = JointUnits::new(&[180.0 / std::f64::consts::PI], &[], &[], 1).unwrap();
        let mut model = [0.0];
        units.to_model(&[std::f64::consts::FRAC_PI_2], &mut model);
        assert!((model[0] - 90.0).abs() < 1e-12);
        units.to_robot(&mut model);
        assert!((model[0] - std::f64::consts::FRAC_PI_2).abs() < 1e-15);
    }

    #[test]
    fn without_lists_not_a_bit_changes() {
        let units = JointUnits::new(&[], &[], &[], 2).unwrap();
        let positions = [0.1 + 0.2, -1e-300];
        let mut model = [0.0; 2];
        units.to_model(&positions, &mut model);
        assert_eq!(model.map(f64::to_bits), positions.map(f64::to_bits));
        units.to_robot(&mut model);
        assert_eq!(model.map(f64::to_bits), positions.map(f64::to_bits));
    }

    #[test]
    fn a_conversion_is_of_what_scale_and_offset_give() {
        // A gripper whose driver has 0 open and 100 closed.
        let conversions = [JointConversion::Linear, JointConversion::AlohaGripper];
        let units = JointUnits::new(&[1.0, -0.01], &[0.0, 1.0], &conversions, 2).unwrap();
        let mut model = [0.0; 2];
        units.to_model(&[0.3, 75.0], &mut model);
        assert_eq!(model, [0.3, aloha_gripper::to_model(0.25)]);
        let mut points = [0.3, 0.5];
        units.to_robot(&mut points);
        assert_eq!(points, [0.3, (aloha_gripper::to_robot(0.5) - 1.0) / -0.01]);
    }

    #[test]
    fn lists_must_fit_and_scales_must_not_vanish() {
        let refused =
            |scale: &[f64], offset: &[f64]| JointUnits::new(scale, offset, &[], 2).unwrap_err().to_string();
        assert!(refused(&[1.0], &[]).contains("joint_scale must have one entry for each of the 2 joints"));
        assert!(refused(&[], &[0.0; 3]).contains("joint_offset must have"));
        assert!(refused(&[1.0, 0.0], &[]).contains("joint_scale is 0 for joint 1"));
        assert!(refused(&[], &[f64::NAN, 0.0]).contains("joint_offset is NaN for joint 0"));
        let conversions = JointUnits::new(&[], &[], &[JointConversion::Linear], 2).unwrap_err().to_string();
        assert!(conversions.contains("joint_conversion must have"), "{conversions}");
    }
}
