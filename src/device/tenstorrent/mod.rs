//! Tenstorrent cards, through TTNN, the library that Tenstorrent distributes.
//!
//! `lower` turns a graph into a `program` of library calls, kept as data, for a `card` in the types of `precision`; `content`
//! says what its tensors hold, `axis` where rows and columns lie. `device` loads programs (`load`), captures them as traces and
//! replays these, by way of `tt-metal-sys`, which no other room knows. Everything but `device`, `load` and `loaded` works without
//! a card, without Python and without the library.

mod argument;
pub mod axis;
pub mod card;
pub mod content;
mod device;
mod error;
mod evidence;
mod load;
mod loaded;
pub mod lower;
pub mod planner;
pub mod precision;
pub mod program;

pub use card::Card;
pub use device::{TenstorrentDevice, TenstorrentOptions, Tuning};
pub use error::TenstorrentError;
pub use lower::{Residents, lower};
pub use precision::{Precisions, WeightTypes};
pub use program::{CallEvidence, DataType, Program};

/// What a graph's contents are made from where they are many: every product of constants computed once.
pub use crate::device::constants::with_products;
/// The passes that make a card's programs smaller.
pub use crate::graph::passes::simplify_for_tiles as simplify;

/// Side of a tile.
pub const TILE: usize = 32;
/// Most rows, in tiles, of a product of few rows: those of a denoising step, of which each core takes all.
pub const FEW_ROWS: usize = 4;
