//! What a chunk must keep to before it may leave: every number finite, joints within their positions, velocities and
//! steps. Made from the settings and a URDF by `assemble`, asked by the output.
//!
//! A chunk that does not keep to them is refused as a whole: what is left of it after clipping is no motion that the
//! policy meant.

use std::fmt;
use std::path::PathBuf;

use super::chunk::Chunk;
use super::spline::JointBounds;
use crate::settings::LimitSettings;
use crate::telemetry::DropReason;

/// Rounding must not make a joint at its limit stand beyond it.
const ROUNDING: f64 = 1e-6;

/// Whether the limits can be had: the URDF is there and has these joints. Called by `check`.
pub fn check_limits(settings: &LimitSettings, joints: &[String]) -> Result<(), LimitsError> {
    Limits::new(settings, joints).map(|_| ())
}

/// Limits of every joint; infinite where there is none.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    names: Vec<String>,
    position_min: Vec<f64>,
    position_max: Vec<f64>,
    /// Per second.
    velocity: Vec<f64>,
    step: Vec<f64>,
}

/// What the joints must keep to between the points, as the output hands it on with what it sends.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds {
    /// Positions, and the speed at which neither velocity nor step is beyond its limit.
    pub joints: Vec<JointBounds>,
    pub step: Vec<f64>,
}

impl Bounds {
    /// None at all, for so many joints.
    pub fn none(joints: usize) -> Self {
        let free = JointBounds { min: f64::NEG_INFINITY, max: f64::INFINITY, speed: f64::INFINITY };
        Self { joints: vec![free; joints], step: vec![f64::INFINITY; joints] }
    }

    /// Takes over others without allocating.
    pub fn copy_from(&mut self, other: &Self) {
        self.joints.copy_from_slice(&other.joints);
        self.step.copy_from_slice(&other.step);
    }
}

/// Where the joints come from when a chunk begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before<'a> {
    /// What was sent for the moment one point before the first: steps and velocities count from here.
    Sent(&'a [f64]),
    /// Where the joints were measured, some time ago: only the step counts.
    Measured(&'a [f64]),
}

/// A chunk that must not leave.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Violation {
    pub reason: DropReason,
    joint: String,
    point: usize,
    found: f64,
    limit: f64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, joint, point, found, limit } = self;
        match reason {
            DropReason::PositionLimit => {
                write!(f, "joint '{joint}' would be at {found:.4} in point {point}; its limit is {limit:.4}")
            }
            DropReason::VelocityLimit => write!(
                f,
                "joint '{joint}' would move at {found:.4} per second to point {point}; its limit is {limit:.4}"
            ),
            DropReason::StepLimit => {
                write!(
                    f,
                    "joint '{joint}' would make a step of {found:.4} to point {point}; its limit is {limit:.4}"
                )
            }
            _ => write!(f, "joint '{joint}' would be at {found} in point {point}"),
        }
    }
}

impl Limits {
    /// The lists of the settings; where these are empty, what a URDF says.
    pub fn new(settings: &LimitSettings, joints: &[String]) -> Result<Self, LimitsError> {
        let list = |given: &[f64], none: f64| {
            if given.is_empty() { vec![none; joints.len()] } else { given.to_vec() }
        };
        let mut limits = Self {
            names: joints.to_vec(),
            position_min: list(&settings.position_min, f64::NEG_INFINITY),
            position_max: list(&settings.position_max, f64::INFINITY),
            velocity: list(&settings.velocity_max, f64::INFINITY),
            step: list(&settings.step_max, f64::INFINITY),
        };
        if let Some(path) = &settings.urdf {
            limits.fill_in_from_urdf(settings, path)?;
        }
        Ok(limits)
    }

    /// By joint, per second; infinite where there is none.
    pub fn velocity_max(&self) -> &[f64] {
        &self.velocity
    }

    fn fill_in_from_urdf(&mut self, settings: &LimitSettings, path: &PathBuf) -> Result<(), LimitsError> {
        let unreadable = |message: String| LimitsError::Urdf { path: path.clone(), message };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let robot = urdf_rs::read_from_string(&text).map_err(|error| unreadable(error.to_string()))?;
        let mut missing = Vec::new();
        for (index, name) in self.names.iter().enumerate() {
            let Some(joint) = robot.joints.iter().find(|joint| joint.name == *name) else {
                missing.push(name.clone());
                continue;
            };
            let limit = &joint.limit;
            // Continuous joints have no ends; where a URDF leaves a limit out, it reads as 0.
            let has_ends =
                matches!(joint.joint_type, urdf_rs::JointType::Revolute | urdf_rs::JointType::Prismatic);
            if has_ends && limit.lower < limit.upper {
                if settings.position_min.is_empty() {
                    self.position_min[index] = limit.lower;
                }
                if settings.position_max.is_empty() {
                    self.position_max[index] = limit.upper;
                }
            }
            if settings.velocity_max.is_empty() && limit.velocity > 0.0 {
                self.velocity[index] = limit.velocity;
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let found: Vec<_> = robot.joints.iter().map(|joint| joint.name.as_str()).collect();
        Err(LimitsError::Joints { path: path.clone(), missing: missing.join(", "), found: found.join(", ") })
    }

    /// The same for what moves between points that follow each other at `control_hz`.
    pub fn write_bounds(&self, control_hz: f64, bounds: &mut Bounds) {
        for (joint, found) in bounds.joints.iter_mut().enumerate() {
            let speed = self.velocity[joint].min(self.step[joint] * control_hz);
            *found = JointBounds { min: self.position_min[joint], max: self.position_max[joint], speed };
        }
        bounds.step.copy_from_slice(&self.step);
    }

    /// Checks the points that are to be sent. Allocates only for a violation.
    pub fn check(&self, chunk: &Chunk, before: Before) -> Result<(), Violation> {
        let (mut last, mut has_velocity) = match before {
            Before::Sent(row) => (row, true),
            Before::Measured(row) => (row, false),
        };
        for (point, row) in chunk.points() {
            for joint in 0..chunk.joints {
                let position = row[joint];
                let violation = |reason, found, limit| Violation {
                    reason,
                    joint: self.names[joint].clone(),
                    point,
                    found,
                    limit,
                };
                if !position.is_finite() {
                    return Err(violation(DropReason::NotFinite, position, f64::INFINITY));
                }
                let (min, max) = (self.position_min[joint], self.position_max[joint]);
                if position < min - ROUNDING || position > max + ROUNDING {
                    let limit = if position < min { min } else { max };
                    return Err(violation(DropReason::PositionLimit, position, limit));
                }
                let step = (position - last[joint]).abs();
                if step > self.step[joint] + ROUNDING {
                    return Err(violation(DropReason::StepLimit, step, self.step[joint]));
                }
                let velocity = step * chunk.control_hz;
                if has_velocity && velocity > self.velocity[joint] + ROUNDING {
                    return Err(violation(DropReason::VelocityLimit, velocity, self.velocity[joint]));
                }
            }
            (last, has_velocity) = (row, true);
        }
        Ok(())
    }
}

/// Limits that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    #[error("cannot read the URDF {}: {message}", .path.display())]
    Urdf { path: PathBuf, message: String },
    #[error("the URDF {} has no joints {missing}; it has {found}", .path.display())]
    Joints { path: PathBuf, missing: String, found: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        vec!["waist".into(), "gripper".into()]
    }

    fn chunk(actions: [f64; 6]) -> Chunk {
        let mut chunk = Chunk::new(3, 2, 10.0);
        chunk.actions = actions.to_vec();
        chunk
    }

    fn settings() -> LimitSettings {
        LimitSettings {
            position_min: vec![-1.0, 0.0],
            position_max: vec![1.0, 0.1],
            velocity_max: vec![2.0, 1.0],
            step_max: vec![0.5, 0.2],
            ..LimitSettings::default()
        }
    }

    fn check(actions: [f64; 6], before: Before) -> Result<(), String> {
        let limits = Limits::new(&settings(), &names()).unwrap();
        limits.check(&chunk(actions), before).map_err(|violation| violation.to_string())
    }

    #[test]
    fn positions_velocities_and_steps_are_checked_from_point_to_point() {
        let start = Before::Sent(&[0.0, 0.0]);
        assert_eq!(check([0.2, 0.0, 0.4, 0.0, 0.5, 0.1], start), Ok(()));
        for (actions, expected) in [
            ([0.9, 0.0, 1.0, 0.0, 1.1, 0.0], "joint 'waist' would make a step of 0.9000 to point 0"),
            (
                [0.0, 0.0, 0.0, -0.01, 0.0, 0.0],
                "joint 'gripper' would be at -0.0100 in point 1; its limit is 0.0000",
            ),
            ([0.2, 0.0, 0.5, 0.0, 0.5, 0.0], "joint 'waist' would move at 3.0000 per second to point 1"),
            ([0.0, 0.0, 0.0, 0.0, f64::NAN, 0.0], "joint 'waist' would be at NaN in point 2"),
        ] {
            let found = check(actions, start).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn what_was_measured_limits_the_first_step_but_not_the_velocity() {
        let actions = [0.4, 0.0, 0.4, 0.0, 0.4, 0.0];
        assert!(check(actions, Before::Sent(&[0.0, 0.0])).unwrap_err().contains("per second"));
        assert_eq!(check(actions, Before::Measured(&[0.0, 0.0])), Ok(()));
        assert!(check(actions, Before::Measured(&[-0.2, 0.0])).unwrap_err().contains("a step of 0.6"));
    }

    #[test]
    fn points_that_are_not_sent_are_not_checked() {
        let limits = Limits::new(&settings(), &names()).unwrap();
        let mut chunk = chunk([9.0, 0.0, 0.1, 0.0, 0.1, 0.0]);
        chunk.first = 1;
        assert_eq!(limits.check(&chunk, Before::Sent(&[0.0, 0.0])), Ok(()));
    }

    const URDF: &str = r#"<robot name="arm">
        <link name="base"/><link name="a"/><link name="b"/>
        <joint name="waist" type="revolute">
            <parent link="base"/><child link="a"/><limit lower="-3.1" upper="3.1" effort="10" velocity="3.0"/>
        </joint>
        <joint name="gripper" type="continuous">
            <parent link="a"/><child link="b"/><limit effort="1" velocity="0.5"/>
        </joint>
    </robot>"#;

    #[test]
    fn a_urdf_gives_what_the_lists_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), URDF).unwrap();
        let settings = LimitSettings {
            urdf: Some(file.path().into()),
            position_min: vec![-1.0, -2.0],
            ..LimitSettings::default()
        };
        let limits = Limits::new(&settings, &names()).unwrap();
        assert_eq!(limits.position_min, [-1.0, -2.0]);
        assert_eq!(limits.position_max, [3.1, f64::INFINITY]);
        assert_eq!(limits.velocity, [3.0, 0.5]);

        let error = Limits::new(&settings, &["elbow".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("has no joints elbow; it has waist, gripper"), "{error}");
        let missing = LimitSettings { urdf: Some("no/such.urdf".into()), ..LimitSettings::default() };
        let error = Limits::new(&missing, &names()).unwrap_err().to_string();
        assert!(error.starts_with("cannot read the URDF no/such.urdf"), "{error}");
    }
}
