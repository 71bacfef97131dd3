//! The lifecycle for others: the services that `ros2 lifecycle` and lifecycle managers call, and `~/transition_event`.
//!
//! Requests are judged on the spin thread, so that a node that compiles a model still answers; the work is the main
//! thread's, which also answers the request when it is done.

use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use r2r::lifecycle_msgs::msg;
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::qos::QosProfile;

use super::clock::Clock;
use super::inputs::{Drain, ready};
use super::lifecycle::{self, State, Transition};
use super::parameter_services::service;

/// Where the node is in its lifecycle.
#[derive(Clone)]
pub struct Lifecycle {
    state: Arc<Mutex<State>>,
    events: r2r::Publisher<msg::TransitionEvent>,
    clock: Clock,
}

/// A transition that has begun: whoever does the work ends it, then answers.
pub struct Asked {
    pub transition: Transition,
    request: Option<r2r::ServiceRequest<ChangeState::Service>>,
}

impl Asked {
    /// Tells who asked whether it worked.
    pub fn answer(self, success: bool) {
        let Some(request) = self.request else { return };
        if let Err(error) = request.respond(ChangeState::Response { success }) {
            tracing::warn!("~/change_state: cannot answer: {error}");
        }
    }
}

impl Lifecycle {
    /// Offers the services. What is asked for comes through the receiver.
    pub fn serve(node: &mut r2r::Node, clock: &Clock) -> anyhow::Result<(Self, Vec<Drain>, Receiver<Asked>)> {
        let events = node
            .create_publisher("~/transition_event", QosProfile::default())
            .context("cannot publish ~/transition_event")?;
        let state = Arc::new(Mutex::new(State::Unconfigured));
        let lifecycle = Self { state, events, clock: clock.clone() };
        let (changes, asked) = lifecycle.serve_changes(node)?;
        let (now, next) = (lifecycle.clone(), lifecycle.clone());
        let drains = vec![
            changes,
            service::<GetState::Service>(node, "get_state", move |_| GetState::Response {
                current_state: state_message(now.state()),
            })?,
            service::<GetAvailableStates::Service>(node, "get_available_states", |_| {
                let available_states = State::ALL.map(state_message).into();
                GetAvailableStates::Response { available_states }
            })?,
            service::<GetAvailableTransitions::Service>(node, "get_available_transitions", move |_| {
                transitions(lifecycle::available(next.state()))
            })?,
            service::<GetAvailableTransitions::Service>(node, "get_transition_graph", |_| {
                transitions(lifecycle::graph())
            })?,
        ];
        Ok((lifecycle, drains, asked))
    }

    fn serve_changes(&self, node: &mut r2r::Node) -> anyhow::Result<(Drain, Receiver<Asked>)> {
        let (sender, receiver) = mpsc::channel();
        let mut requests = node
            .create_service::<ChangeState::Service>("~/change_state", QosProfile::services_default())
            .context("cannot offer the service ~/change_state")?;
        let lifecycle = self.clone();
        let drain = move || {
            for request in ready(&mut requests) {
                let wanted = &request.message.transition;
                match lifecycle.begin(|state| lifecycle::asked(state, wanted.id, &wanted.label)) {
                    Ok(transition) => {
                        // When the main thread has gone, the process ends.
                        let _ = sender.send(Asked { transition, request: Some(request) });
                    }
                    Err(state) => {
                        tracing::warn!(
                            "~/change_state: '{}' ({}) is no way out of the state '{}'",
                            wanted.label,
                            wanted.id,
                            state.label()
                        );
                        Asked { transition: lifecycle::CONFIGURE, request: Some(request) }.answer(false);
                    }
                }
            }
        };
        Ok((Box::new(drain), receiver))
    }

    pub fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a transition on the node's own account.
    pub fn start(&self, transition: Transition) -> Option<Asked> {
        let begun = self.begin(|state| (transition.start == state).then_some(transition)).ok()?;
        Some(Asked { transition: begun, request: None })
    }

    /// Ends the transition that is under way. After an error the node is as if it had never been configured.
    pub fn end(&self, success: bool) {
        let _ = self.begin(|state| lifecycle::end(state, success));
        if !success {
            let _ = self.begin(|state| lifecycle::end(state, true));
        }
    }

    /// Takes the way that `choose` finds from the present state; without one, the state stays and comes back.
    fn begin(&self, choose: impl FnOnce(State) -> Option<Transition>) -> Result<Transition, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let way = choose(*state).ok_or(*state)?;
        *state = way.goal;
        // In the order in which the states are.
        let event = msg::TransitionEvent {
            timestamp: self.clock.now().0.try_into().unwrap_or_default(),
            transition: transition_message(way),
            start_state: state_message(way.start),
            goal_state: state_message(way.goal),
        };
        if let Err(error) = self.events.publish(&event) {
            tracing::warn!("cannot publish ~/transition_event: {error}");
        }
        Ok(way)
    }
}

fn state_message(state: State) -> msg::State {
    msg::State { id: state.id(), label: state.label().to_owned() }
}

fn transition_message(way: Transition) -> msg::Transition {
    msg::Transition { id: way.id, label: way.label.to_owned() }
}

fn transitions(ways: impl Iterator<Item = Transition>) -> GetAvailableTransitions::Response {
    let description = |way: Transition| msg::TransitionDescription {
        transition: transition_message(way),
        start_state: state_message(way.start),
        goal_state: state_message(way.goal),
    };
    GetAvailableTransitions::Response { available_transitions: ways.map(description).collect() }
}
