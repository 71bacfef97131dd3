//! The ROS 2 edge, and the only room that names r2r: parameters, subscriptions, publishers, clock.
//!
//! [`run`] is the live node; its threads and what they own:
//! - *spin* has the r2r node: takes every message off the network at once, keeps the newest per camera, answers
//!   parameter and lifecycle services;
//! - the main thread configures and activates, publishes `/diagnostics`, draws the status, waits for the signal to stop;
//!
//! and while the node is configured:
//! - one *camera* thread per camera turns its newest image into the model's input;
//! - *control* runs the cycle;
//! - *publish* waits for chunks and sends them;
//! - *stream* sends the positions of each tick, if an output takes them;
//! - *dashboard* answers who looks at the page, if there is one (`crate::dashboard`).
//!
//! [`check`] listens to a robot's topics and says whether they are what the node needs.
//!
//! [`play`] is the other side: a bag's topics as a robot's drivers would publish them. Called by `cli run` and `cli play`.

mod check;
mod clock;
mod connect;
mod diagnostics;
mod dump;
mod graph;
mod health;
mod inputs;
mod latest;
mod lifecycle;
mod lifecycle_services;
mod listeners;
mod live;
mod names;
mod parameter_services;
mod parameters;
mod play;
mod publish;
mod rosout;
mod sensor;
mod session;
mod spin;
mod status;
mod stop;
mod stream;

pub use check::check;
pub use live::{Logs, Options, run};
pub use play::{Options as PlayOptions, StampFrom, play};
pub use rosout::{Lines, RosoutLayer, queue as rosout_queue};
pub use status::Style as StatusStyle;
