//! The states of a managed node and the ways between them, as data: <https://design.ros2.org/articles/node_lifecycle.html>
//! with the numbers and names of `lifecycle_msgs`. `lifecycle_services` shows it to others, `live` does the work.

/// A state; the ones from `Configuring` on last as long as the work between two others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Parameters and services, no model.
    Unconfigured = 1,
    /// The model is compiled, topics are there, nothing is made or sent.
    Inactive = 2,
    /// Chunks are made and sent.
    Active = 3,
    /// The end; the process still answers.
    Finalized = 4,
    Configuring = 10,
    CleaningUp = 11,
    ShuttingDown = 12,
    Activating = 13,
    Deactivating = 14,
    ErrorProcessing = 15,
}

impl State {
    pub const ALL: [State; 10] = [
        State::Unconfigured,
        State::Inactive,
        State::Active,
        State::Finalized,
        State::Configuring,
        State::CleaningUp,
        State::ShuttingDown,
        State::Activating,
        State::Deactivating,
        State::ErrorProcessing,
    ];

    pub fn id(self) -> u8 {
        self as u8
    }

    pub fn label(self) -> &'static str {
        match self {
            State::Unconfigured => "unconfigured",
            State::Inactive => "inactive",
            State::Active => "active",
            State::Finalized => "finalized",
            State::Configuring => "configuring",
            State::CleaningUp => "cleaningup",
            State::ShuttingDown => "shuttingdown",
            State::Activating => "activating",
            State::Deactivating => "deactivating",
            State::ErrorProcessing => "errorprocessing",
        }
    }
}

/// A way from one state to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub id: u8,
    pub label: &'static str,
    pub start: State,
    pub goal: State,
}

const fn way(id: u8, label: &'static str, start: State, goal: State) -> Transition {
    Transition { id, label, start, goal }
}

pub const CONFIGURE: Transition = way(1, "configure", State::Unconfigured, State::Configuring);
pub const CLEAN_UP: Transition = way(2, "cleanup", State::Inactive, State::CleaningUp);
pub const ACTIVATE: Transition = way(3, "activate", State::Inactive, State::Activating);
pub const DEACTIVATE: Transition = way(4, "deactivate", State::Active, State::Deactivating);

/// What others may ask for.
const ASKED: [Transition; 7] = [
    CONFIGURE,
    CLEAN_UP,
    ACTIVATE,
    DEACTIVATE,
    way(5, "shutdown", State::Unconfigured, State::ShuttingDown),
    way(6, "shutdown", State::Inactive, State::ShuttingDown),
    way(7, "shutdown", State::Active, State::ShuttingDown),
];

const SUCCESS: &str = "transition_success";
const ERROR: &str = "transition_error";

/// How the work ends. What fails here always is an error: an attempt that may simply be repeated does not exist.
const ENDS: [Transition; 11] = [
    way(10, SUCCESS, State::Configuring, State::Inactive),
    way(12, ERROR, State::Configuring, State::ErrorProcessing),
    way(20, SUCCESS, State::CleaningUp, State::Unconfigured),
    way(22, ERROR, State::CleaningUp, State::ErrorProcessing),
    way(30, SUCCESS, State::Activating, State::Active),
    way(32, ERROR, State::Activating, State::ErrorProcessing),
    way(40, SUCCESS, State::Deactivating, State::Inactive),
    way(42, ERROR, State::Deactivating, State::ErrorProcessing),
    way(50, SUCCESS, State::ShuttingDown, State::Finalized),
    way(52, ERROR, State::ShuttingDown, State::ErrorProcessing),
    way(60, SUCCESS, State::ErrorProcessing, State::Unconfigured),
];

/// All ways there are.
pub fn graph() -> impl Iterator<Item = Transition> {
    ASKED.into_iter().chain(ENDS)
}

/// The ways that somebody may ask for in this state.
pub fn available(state: State) -> impl Iterator<Item = Transition> {
    ASKED.into_iter().filter(move |transition| transition.start == state)
}

/// The way that a request means: by its label, if it has one, else by its number.
pub fn asked(state: State, id: u8, label: &str) -> Option<Transition> {
    available(state).find(|way| if label.is_empty() { way.id == id } else { way.label == label })
}

/// How the work of this state ends.
pub fn end(state: State, success: bool) -> Option<Transition> {
    let label = if success { SUCCESS } else { ERROR };
    ENDS.into_iter().find(|way| way.start == state && way.label == label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_are_those_of_lifecycle_msgs() {
        use r2r::lifecycle_msgs::msg::{State as StateMessage, Transition as Message};
        let is = |state: State, id: u8| assert_eq!(state.id(), id);
        is(State::Unconfigured, StateMessage::PRIMARY_STATE_UNCONFIGURED as u8);
        is(State::Finalized, StateMessage::PRIMARY_STATE_FINALIZED as u8);
        is(State::Configuring, StateMessage::TRANSITION_STATE_CONFIGURING as u8);
        is(State::ErrorProcessing, StateMessage::TRANSITION_STATE_ERRORPROCESSING as u8);
        let has = |id: u8, start: State, goal: State| {
            let found = graph().find(|way| way.id == id).unwrap();
            assert_eq!((found.start, found.goal), (start, goal));
        };
        has(Message::TRANSITION_DEACTIVATE as u8, State::Active, State::Deactivating);
        has(Message::TRANSITION_ACTIVE_SHUTDOWN as u8, State::Active, State::ShuttingDown);
        has(Message::TRANSITION_ON_CONFIGURE_ERROR as u8, State::Configuring, State::ErrorProcessing);
        has(Message::TRANSITION_ON_ERROR_SUCCESS as u8, State::ErrorProcessing, State::Unconfigured);
    }

    #[test]
    fn requests_are_understood_by_label_or_number() {
        assert_eq!(asked(State::Unconfigured, 0, "configure"), Some(CONFIGURE));
        assert_eq!(asked(State::Unconfigured, 1, ""), Some(CONFIGURE));
        assert_eq!(asked(State::Active, 0, "shutdown").map(|way| way.id), Some(7));
        assert_eq!(asked(State::Active, 1, ""), None);
        assert_eq!(asked(State::Configuring, 3, "activate"), None);
    }

    #[test]
    fn whatever_begins_ends_well_or_in_error_processing() {
        for way in ASKED {
            assert!(end(way.goal, true).is_some(), "{way:?}");
            assert_eq!(end(way.goal, false).unwrap().goal, State::ErrorProcessing);
        }
        assert_eq!(end(State::Active, true), None);
    }
}
