//! Joint positions in the model's order, whatever order the message has. Called by `control`'s joint input, on the
//! thread that received the message.

use super::messages::JointState;

/// The robot's joints as the model numbers them.
pub struct JointOrder {
    names: Vec<String>,
}

impl JointOrder {
    pub fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
        }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Positions of the joints, in order. Joints that the model does not know are passed over, whatever their
    /// positions: a robot may well have more (a base, a head).
    /// Every message is searched anew, since drivers may change their order; this costs about a microsecond.
    /// Allocates only for an error; on an error `out` is undefined.
    pub fn read(&self, message: &JointState, out: &mut [f64]) -> Result<(), JointError> {
        if message.names.len() != message.positions.len() {
            return Err(JointError::Lengths {
                names: message.names.len(),
                positions: message.positions.len(),
            });
        }
        if out.len() != self.names.len() {
            return Err(JointError::Output {
                expected: self.names.len(),
                found: out.len(),
            });
        }
        for (name, out) in self.names.iter().zip(out) {
            *out = match only_position(message, name) {
                Some(position) if position.is_finite() => position,
                _ => return Err(self.explain(message)),
            };
        }
        Ok(())
    }

    /// What is wrong with a message that could not be read: all joints of the gravest kind at once.
    #[cold]
    fn explain(&self, message: &JointState) -> JointError {
        let count = |name: &String| message.names.iter().filter(|other| *other == name).count();
        let names_where = |wrong: &dyn Fn(&String) -> bool| -> Vec<String> {
            self.names.iter().filter(|name| wrong(name)).cloned().collect()
        };
        let missing = names_where(&|name| count(name) == 0);
        if !missing.is_empty() {
            return JointError::Missing {
                missing,
                found: message.names.to_vec(),
            };
        }
        let twice = names_where(&|name| count(name) > 1);
        if !twice.is_empty() {
            return JointError::Twice(twice);
        }
        JointError::NotFinite(names_where(&|name| {
            only_position(message, name).is_some_and(|position| !position.is_finite())
        }))
    }
}

/// Position of the joint `name`, unless it is missing or ambiguous.
fn only_position(message: &JointState, name: &String) -> Option<f64> {
    let mut found = message
        .names
        .iter()
        .zip(message.positions)
        .filter(|(other, _)| *other == name);
    match (found.next(), found.next()) {
        (Some((_, &position)), None) => Some(position),
        _ => None,
    }
}

/// A joint state that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JointError {
    #[error("the message names {names} joints but has {positions} positions")]
    Lengths { names: usize, positions: usize },
    #[error(
        "joints {} are not in the message, which has {}; set the parameter 'joints' to the robot's names",
        .missing.join(", "), .found.join(", ")
    )]
    Missing {
        missing: Vec<String>,
        found: Vec<String>,
    },
    #[error("joints {} are in the message more than once", .0.join(", "))]
    Twice(Vec<String>),
    #[error("the positions of joints {} are not finite numbers", .0.join(", "))]
    NotFinite(Vec<String>),
    #[error("the result has room for {found} joints, {expected} are needed")]
    Output { expected: usize, found: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::messages::Stamp;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Reads waist and elbow.
    fn read(message: &str, positions: &[f64]) -> Result<[f64; 2], String> {
        let (order, names) = (JointOrder::new(&names("waist elbow")), names(message));
        let message = JointState {
            stamp: Stamp(0),
            names: &names,
            positions,
        };
        let mut out = [0.0; 2];
        let read = order.read(&message, &mut out);
        read.map(|()| out).map_err(|error| error.to_string())
    }

    #[test]
    fn joints_are_found_by_name_in_any_order() {
        assert_eq!(read("waist elbow", &[1.0, 2.0]), Ok([1.0, 2.0]));
        assert_eq!(read("elbow waist", &[2.0, 1.0]), Ok([1.0, 2.0]));
    }

    #[test]
    fn joints_that_the_model_does_not_know_do_not_matter() {
        let read = read("wheel elbow wheel waist", &[f64::NAN, 2.0, 0.0, 1.0]);
        assert_eq!(read, Ok([1.0, 2.0]));
    }

    #[test]
    fn every_missing_joint_is_named() {
        let error = read("shoulder", &[1.0]).unwrap_err();
        let expected = "joints waist, elbow are not in the message, which has shoulder;";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn names_and_positions_must_be_as_many() {
        let error = read("waist elbow", &[1.0]).unwrap_err();
        assert_eq!(error, "the message names 2 joints but has 1 positions");
        let error = read("", &[1.0]).unwrap_err();
        assert_eq!(error, "the message names 0 joints but has 1 positions");
    }

    #[test]
    fn an_ambiguous_joint_is_refused() {
        let error = read("elbow elbow waist", &[1.0; 3]).unwrap_err();
        assert_eq!(error, "joints elbow are in the message more than once");
    }

    #[test]
    fn positions_that_are_no_numbers_are_refused() {
        let error = read("waist elbow", &[f64::INFINITY, f64::NAN]).unwrap_err();
        assert_eq!(
            error,
            "the positions of joints waist, elbow are not finite numbers"
        );
    }

    #[test]
    fn a_result_of_another_size_is_refused() {
        let message = JointState {
            stamp: Stamp(0),
            names: &names("waist"),
            positions: &[1.0],
        };
        let error = JointOrder::new(&names("waist"))
            .read(&message, &mut [0.0; 3])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "the result has room for 3 joints, 1 are needed"
        );
    }
}
