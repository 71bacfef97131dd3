//! How long a lowered program will take on a card: a prediction, and how far to trust it. Called by `cli plan` and `cli audit`.
//!
//! `work` says what a call is made of (programs, weights, products of tiles, attention, tiles that move; `split`: by which core),
//! `fit` what each of these costs, from `published` measurements, with the error that it makes of those and of ones that it has not seen.
//! `bound` is what no program can beat: the vendor's peaks. `measured` is what a card's profiler says of the same program.

pub mod bound;
pub mod fit;
pub mod measured;
pub mod published;
mod split;
pub mod work;

pub use bound::{CallCost, cost};
pub use fit::Fit;
pub use published::Published;
pub use work::Work;
