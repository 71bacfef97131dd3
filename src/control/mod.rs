//! The control loop: mailboxes that edges fill, frame sync, the cycle (perceive, act, decode), chunk timing.
//! Live and replay run the same cycle; only the edges and the clock differ.

pub mod chunk;
mod mailbox;
mod noise;
mod sync;
mod wake;

pub use chunk::{Chunk, ChunkOutput};
