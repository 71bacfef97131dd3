//! Joint positions in the model's order, whatever order the message has. Called on the thread that received it.

use super::messages::JointState;

/// The robot's joints as the model numbers them.
pub struct JointOrder {
    names: Vec<String>,
    /// Where each joint stood in the last message; drivers keep their order.
    last: Vec<usize>,
}

impl JointOrder {
    pub fn new(names: &[String]) -> Self {
        Self {
            names: names.to_vec(),
            last: (0..names.len()).collect(),
        }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Positions of the joints, in order. Joints that the model does not know are passed over: a robot may well have
    /// more (a base, a head). Allocates only for an error; on an error `out` is undefined.
    pub fn read(&mut self, message: &JointState, out: &mut [f64]) -> Result<(), JointError> {
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
        let as_before = self
            .names
            .iter()
            .zip(&self.last)
            .all(|(name, &index)| message.names.get(index) == Some(name));
        if !as_before {
            self.find(message)?;
        }
        for ((name, &index), out) in self.names.iter().zip(&self.last).zip(out) {
            *out = message.positions[index];
            if !out.is_finite() {
                return Err(JointError::NotFinite {
                    joint: name.clone(),
                    position: out.to_string(),
                });
            }
        }
        Ok(())
    }

    fn find(&mut self, message: &JointState) -> Result<(), JointError> {
        let position = |name: &String| message.names.iter().position(|other| other == name);
        if self.names.iter().any(|name| position(name).is_none()) {
            let missing = self
                .names
                .iter()
                .filter(|name| position(name).is_none())
                .cloned()
                .collect();
            return Err(JointError::Missing {
                missing,
                found: message.names.to_vec(),
            });
        }
        for (name, index) in self.names.iter().zip(&mut self.last) {
            if message.names.iter().filter(|other| *other == name).count() > 1 {
                return Err(JointError::Twice(name.clone()));
            }
            *index = position(name).unwrap_or_default();
        }
        Ok(())
    }
}

/// A joint state that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JointError {
    #[error("the message names {names} joints but has {positions} positions")]
    Lengths { names: usize, positions: usize },
    #[error("joints {} are not in the message, which has {}; set the parameter 'joints' to the robot's names", .missing.join(", "), .found.join(", "))]
    Missing {
        missing: Vec<String>,
        found: Vec<String>,
    },
    #[error("joint '{0}' is in the message more than once")]
    Twice(String),
    #[error("position of joint '{joint}' is {position}")]
    NotFinite { joint: String, position: String },
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

    fn read(order: &mut JointOrder, message: &str, positions: &[f64]) -> Result<[f64; 2], JointError> {
        let mut out = [0.0; 2];
        let names = names(message);
        order
            .read(
                &JointState {
                    stamp: Stamp(0),
                    names: &names,
                    positions,
                },
                &mut out,
            )
            .map(|()| out)
    }

    #[test]
    fn joints_are_found_by_name_in_any_order() {
        let mut order = JointOrder::new(&names("waist elbow"));
        assert_eq!(read(&mut order, "waist elbow", &[1.0, 2.0]), Ok([1.0, 2.0]));
        assert_eq!(
            read(&mut order, "wheel elbow waist", &[9.0, 2.0, 1.0]),
            Ok([1.0, 2.0])
        );
        assert_eq!(read(&mut order, "elbow waist", &[2.0, 1.0]), Ok([1.0, 2.0]));
    }

    #[test]
    fn a_message_that_does_not_fit_says_why() {
        let mut order = JointOrder::new(&names("waist elbow"));
        let mut refused =
            |message, positions: &[f64]| read(&mut order, message, positions).unwrap_err().to_string();
        let missing = refused("shoulder", &[1.0]);
        assert!(
            missing.starts_with("joints waist, elbow are not in the message, which has shoulder;"),
            "{missing}"
        );
        assert_eq!(
            refused("waist elbow", &[1.0]),
            "the message names 2 joints but has 1 positions"
        );
        assert_eq!(
            refused("elbow elbow waist", &[1.0; 3]),
            "joint 'elbow' is in the message more than once"
        );
        assert_eq!(
            refused("waist elbow", &[0.0, f64::NAN]),
            "position of joint 'elbow' is NaN"
        );
    }
}
