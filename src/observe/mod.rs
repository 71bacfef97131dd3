//! From what a robot says to what the model reads, and back: image decoding and resize-with-pad, joint order and
//! units, normalisation, relative actions, prompt and tokenizer. Called by `control`'s inputs and outputs, on edge threads
//! for images and prompts, on the control thread for states and actions (those functions never allocate).

mod aloha_gripper;
pub mod delta;
pub mod image;
pub mod joined;
pub mod joints;
pub mod messages;
pub mod normalization;
pub mod prompt;
pub mod relative;
mod resize;
mod sentencepiece;
mod small_tokenizer;
pub mod state_prompt;
mod stats;
pub mod units;
pub mod velocity;

pub use delta::{DeltaError, DeltaMask};
pub use image::{ImageError, ImagePreprocessor};
pub use joined::{Joined, JoinedJoints};
pub use joints::{JointError, JointOrder};
pub use normalization::{Normalizer, Trained};
pub use prompt::{PromptTokenizer, PromptTokens, TokenizerError};
pub use relative::{RelativeActions, RelativeActionsError};
pub use small_tokenizer::write_small_tokenizer;
pub use state_prompt::StatePrompt;
pub use stats::{NormalizationError, RelativeStep, write_identity_like_stats};
pub use units::{JointConversion, JointUnits, UnitsError};
pub use velocity::{VelocityError, VelocitySteps};
