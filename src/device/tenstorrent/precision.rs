//! Which element type each kind of tensor has on a card, and how precisely products are computed; `lower/attention` has what its
//! operations want of their own.
//!
//! Each choice is one of those that tests/tenstorrent_accuracy.rs compares; errors below are 1 - PCC of what ten steps add to the noise, on its
//! full-size model `pi05-sharp`: 0.0024 as chosen. docs/tenstorrent.md has the whole table.

use std::str::FromStr;

use super::error::TenstorrentError;
use super::program::{Compute, DataType};
use super::{FEW_ROWS, TILE};

/// What a tensor is, as far as its element type depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Large weights of a product of so many rows.
    Weight { elements: usize, rows: usize },
    /// Weights of the robot's own projections (state, actions, time).
    ExactWeight,
    /// Norm weights, biases, tables, masks.
    Small,
    /// What flows between operations.
    Activation,
    /// One head's keys and values that the denoising steps read over and over, and what they put beside these; in bfloat16 the error would be less by
    /// under 0.0001.
    Cache,
    /// Actions on their way along the flow, and what is added to them.
    Flow,
}

/// How large weights are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightTypes {
    /// All in bfloat8_b: 0.0067.
    Bfloat8B,
    /// Those in bfloat16 that are read once a cycle, by products of many rows, and are not the largest: at full size SigLIP's
    /// (without them 0.0046) and the prefix's attention (0.0038).
    #[default]
    Mixed,
    /// All: 0.0020, the prefix's MLP making 0.0003 of the difference, and the steps the rest.
    Bfloat16,
}

impl WeightTypes {
    pub const ALL: [Self; 3] = [Self::Bfloat8B, Self::Mixed, Self::Bfloat16];

    /// As parameters and options name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bfloat8B => "bfloat8_b",
            Self::Mixed => "mixed",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

impl FromStr for WeightTypes {
    type Err = TenstorrentError;

    fn from_str(name: &str) -> Result<Self, TenstorrentError> {
        let found = Self::ALL.into_iter().find(|types| types.name() == name);
        found.ok_or_else(|| TenstorrentError::WeightType(name.into()))
    }
}

/// The choices; [`Precisions::default`] is what runs unless parameters say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Precisions {
    pub weights: WeightTypes,
}

/// Elements up to which `mixed` has weights in bfloat16: an eighth of the prefix's gate and up.
const NOT_THE_LARGEST: usize = 8 << 20;

impl Precisions {
    pub fn dtype(&self, role: Role) -> DataType {
        match role {
            Role::Weight { elements, rows } => match self.weights {
                WeightTypes::Bfloat16 => DataType::Bfloat16,
                WeightTypes::Mixed if rows > FEW_ROWS * TILE && elements <= NOT_THE_LARGEST => {
                    DataType::Bfloat16
                }
                WeightTypes::Mixed | WeightTypes::Bfloat8B => DataType::Bfloat8B,
            },
            Role::Cache if self.weights != WeightTypes::Bfloat16 => DataType::Bfloat8B,
            // Activations in bfloat8_b: 0.0175 in SigLIP, 0.0098 in the prefix, 0.0035 in the steps.
            Role::Small | Role::Activation | Role::Cache => DataType::Bfloat16,
            // State and actions keep what f32 has.
            Role::ExactWeight | Role::Flow => DataType::Float32,
        }
    }
}

/// Two passes: all bits of a weight, seven of an activation's eight. Four make 0.0017 of it, one 0.0040 in the steps, 0.0143 in the
/// prefix and 0.0163 in SigLIP. Sums are f32 all the same.
pub const PRODUCT: Compute = Compute { fidelity: "HiFi2", fp32_accumulate: true };
/// Everything that a factor has.
pub const EXACT: Compute = Compute { fidelity: "HiFi4", fp32_accumulate: true };
