//! Joint positions in the model's order, whatever order the message has. Called by `joined` and `node`'s check, on the thread that
//! received the message.

use super::messages::JointState;

/// The robot's joints as the model numbers them.
pub struct JointOrder {
    names: Vec<String>,
}

impl JointOrder {
    pub fn new(names: &[String]) -> Self {
        Self { names: names.to_vec() }
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Where in a message each joint is, none for those that are not; and how many are. Joints that the model does not know
    /// are passed over, whatever their positions: a robot may well have more (a base, a head).
    /// Every message is searched anew, since drivers may change their order; this costs about a microsecond.
    /// Allocates only for an error; on an error `out` is undefined.
    pub fn places(&self, message: &JointState, out: &mut [Option<usize>]) -> Result<usize, JointError> {
        if message.names.len() != message.positions.len() {
            return Err(JointError::Lengths {
                names: message.names.len(),
                positions: message.positions.len(),
            });
        }
        let mut found = 0;
        for (name, out) in self.names.iter().zip(out) {
            let mut places = message.names.iter().enumerate().filter(|(_, other)| *other == name);
            *out = places.next().map(|(place, _)| place);
            let Some(place) = *out else { continue };
            if places.next().is_some() || !message.positions[place].is_finite() {
                return Err(self.explain(message));
            }
            found += 1;
        }
        Ok(found)
    }

    /// What is wrong with a message that could not be read: all joints of the gravest kind at once.
    #[cold]
    fn explain(&self, message: &JointState) -> JointError {
        let count = |name: &String| message.names.iter().filter(|other| *other == name).count();
        let is_no_number = |name: &String| {
            message
                .names
                .iter()
                .zip(message.positions)
                .any(|(other, position)| other == name && !position.is_finite())
        };
        let names_where = |wrong: &dyn Fn(&String) -> bool| -> Vec<String> {
            self.names.iter().filter(|name| wrong(name)).cloned().collect()
        };
        let twice = names_where(&|name| count(name) > 1);
        if !twice.is_empty() {
            return JointError::Twice(twice);
        }
        JointError::NotFinite(names_where(&is_no_number))
    }
}

/// A joint state that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JointError {
    #[error("the message names {names} joints but has {positions} positions")]
    Lengths { names: usize, positions: usize },
    #[error("joints {} are in the message more than once", .0.join(", "))]
    Twice(Vec<String>),
    #[error("the positions of joints {} are not finite numbers", .0.join(", "))]
    NotFinite(Vec<String>),
    #[error(
        "{joint} was at {before} and {ms} ms later is at {now}, faster than it can move: do two publishers disagree about it?"
    )]
    Jump { joint: String, before: String, now: String, ms: String },
    #[error(
        "{joint} goes back and forth between {before} and {now} from message to message: do two publishers disagree about it?"
    )]
    BackAndForth { joint: String, before: String, now: String },
}

impl JointError {
    /// Whether the message is as good as others, but contradicts them.
    pub fn is_dispute(&self) -> bool {
        matches!(self, Self::Jump { .. } | Self::BackAndForth { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::messages::Stamp;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Where waist and elbow are.
    fn read(message: &str, positions: &[f64]) -> Result<[Option<f64>; 2], String> {
        let (order, names) = (JointOrder::new(&names("waist elbow")), names(message));
        let message = JointState { stamp: Stamp(0), names: &names, positions };
        let mut out = [None; 2];
        let found = order.places(&message, &mut out).map_err(|error| error.to_string())?;
        assert_eq!(found, out.iter().flatten().count());
        Ok(out.map(|place| Some(positions[place?])))
    }

    #[test]
    fn joints_are_found_by_name_in_any_order() {
        assert_eq!(read("waist elbow", &[1.0, 2.0]), Ok([Some(1.0), Some(2.0)]));
        assert_eq!(read("elbow waist", &[2.0, 1.0]), Ok([Some(1.0), Some(2.0)]));
    }

    #[test]
    fn joints_that_the_model_does_not_know_do_not_matter() {
        let read = read("wheel elbow wheel waist", &[f64::NAN, 2.0, 0.0, 1.0]);
        assert_eq!(read, Ok([Some(1.0), Some(2.0)]));
    }

    #[test]
    fn a_message_may_have_some_of_the_joints_or_none() {
        assert_eq!(read("elbow", &[2.0]), Ok([None, Some(2.0)]));
        assert_eq!(read("shoulder", &[1.0]), Ok([None, None]));
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
        assert_eq!(error, "the positions of joints waist, elbow are not finite numbers");
    }
}
