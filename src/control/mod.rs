//! The control loop: mailboxes that edges fill, frame sync, the cycle (perceive, act, decode), chunk timing.
//! Live and replay run the same cycle; only the edges and the clock differ.
//!
//! [`assemble`] puts everything together from the settings. What it gives goes to different threads: inputs to whoever
//! receives messages, the [`Cycle`] to the control thread, the [`ChunkOutput`] to whoever publishes.

mod assemble;
pub mod chunk;
mod cycle;
mod inputs;
mod mailbox;
mod model;
mod noise;
mod sync;
mod wake;

pub use assemble::{AssembleError, Monitor, Wiring, assemble};
pub use chunk::{Chunk, ChunkOutput};
pub use cycle::{Cycle, Outcome};
pub use inputs::{CameraInput, JointInput, PromptInput};
