//! Tenstorrent cards, through TTNN, the library that Tenstorrent distributes.
//!
//! `lower` turns a graph into a `program` of library calls, kept as data, for a `card` in the types of `precision`; `content`
//! says what its tensors hold, `axis` where rows and columns lie. `device` loads programs (`load`), captures them as traces and
//! replays these, by way of `tt-metal-sys`, which no other room knows. Everything but `device`, `load` and `loaded` works without
//! a card, without Python and without the library.

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
pub use precision::Precisions;
pub use program::{CallEvidence, DataType, Program};

use crate::graph::{Graph, GraphError, passes};

/// Side of a tile.
pub const TILE: usize = 32;

/// The passes that make a card's programs smaller. The state token's rows are not taken out of later denoising steps: 51
/// rows fill as many tiles as 50 do.
pub fn simplify(graph: Graph) -> Result<Graph, GraphError> {
    let graph = passes::hoist_constant_columns(passes::merge_common_nodes(graph))?;
    let graph = passes::fuse_gates(passes::fuse_activations(passes::remove_dead_nodes(graph)))?;
    Ok(passes::remove_dead_nodes(passes::fuse_projections(graph)?))
}
