//! The control loop: mailboxes that edges fill, frame sync, the cycle (perceive, act, decode), and the way out.
//! Live and replay run the same cycle; only the edges and the clock differ.
//!
//! [`assemble`] puts everything together from the settings. What it gives goes to different threads: inputs to whoever
//! receives messages, the [`Cycle`] to the control thread, the [`ChunkOutput`] to whoever sends chunks, the [`Stream`] to whoever
//! sends positions at every tick.

mod act;
mod assemble;
mod budget;
mod chunk;
mod cores;
mod cycle;
mod deadline;
mod follower;
mod guide;
mod inputs;
mod join;
mod limits;
mod mailbox;
mod model;
mod motion;
mod noise;
mod output;
mod perceive;
mod prompt;
mod real_time;
mod reason;
mod rebuild;
mod repeat;
mod sent;
mod spline;
mod state;
mod stream;
mod sync;
mod tuning;
mod wake;
mod witness;

pub use assemble::{AssembleError, Monitor, OpenDevice, Wiring, assemble, assemble_on};
pub use chunk::Chunk;
pub use cycle::{Cycle, Outcome};
pub use guide::Guide;
pub use inputs::{CameraInput, JointInput, PromptInput};
pub use limits::{LimitsError, check_limits};
pub use model::padded_prompt;
pub use motion::Motion;
pub use output::ChunkOutput;
pub use prompt::{Prompts, empty_task, trained};
pub use real_time::{make_almost_as_urgent, make_as_urgent, make_most_urgent, make_real_time};
pub use reason::{
    camera_stamp_trouble, joint_stamp_trouble, trouble as stamp_trouble, what_to_do, why_no_chunk,
};
pub use repeat::{RecordedGuide, Repeat, RepeatError};
pub use state::{Enable, LoopState, Phase, Shared};
pub use stream::{Pace, Stream, Tick, TickState};
pub use tuning::{Change, ChangeError, Tuner};
pub use wake::Wake;
pub use witness::{Arrival, Departure, Used, Witness};
