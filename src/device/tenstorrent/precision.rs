//! Which element type each kind of tensor has on a card, and how precisely products are computed: the one table of it.
//!
//! Each choice is one of those that tests/tenstorrent_accuracy.rs compares; errors below are 1 - PCC of velocities on its model `mini`,
//! 0.0035 as chosen. docs/tenstorrent.md has the whole table.

use std::str::FromStr;

use super::error::TenstorrentError;
use super::program::{Compute, DataType};

/// What a tensor is, as far as its element type depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Large weights, read in every run.
    Weight,
    /// Weights of the robot's own projections (state, actions, time).
    ExactWeight,
    /// Norm weights, biases, tables, masks.
    Small,
    /// What flows between operations.
    Activation,
    /// Actions on their way along the flow, and what is added to them.
    Flow,
}

/// The choices; [`Precisions::default`] is what runs unless parameters say otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precisions {
    /// Of large weights: `Bfloat8B`, or `Bfloat16` for half the speed and an error of 0.0008.
    pub weights: DataType,
}

impl Default for Precisions {
    fn default() -> Self {
        Self { weights: DataType::Bfloat8B }
    }
}

impl Precisions {
    pub fn dtype(&self, role: Role) -> DataType {
        match role {
            Role::Weight => self.weights,
            // Activations in bfloat8_b: 0.0055 in the steps; 0.0038 in SigLIP or the prefix, whose keys are 2.5 times as far off.
            Role::Small | Role::Activation => DataType::Bfloat16,
            // State and actions keep what f32 has.
            Role::ExactWeight | Role::Flow => DataType::Float32,
        }
    }
}

/// Of large weights.
impl FromStr for DataType {
    type Err = TenstorrentError;

    fn from_str(name: &str) -> Result<Self, TenstorrentError> {
        let found = [DataType::Bfloat8B, DataType::Bfloat16].into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| TenstorrentError::WeightType(name.into()))
    }
}

/// Two of a bf16 factor's passes are enough for weights of seven bits: four make 0.0028 of it, one 0.0057 in the steps, 0.0143 in
/// the prefix and 0.0047 in SigLIP. Sums are f32 all the same.
pub const PRODUCT: Compute = Compute { fidelity: "HiFi2", fp32_accumulate: true };
/// Three passes: all of an activation's bits by the upper ones of a weight, so that what is multiplied with 1 stays as it is; in two
/// the residual would lose a bit in every sum, 0.0044.
pub const SUM: Compute = Compute { fidelity: "HiFi3", fp32_accumulate: true };
/// Everything that a factor has.
pub const EXACT: Compute = Compute { fidelity: "HiFi4", fp32_accumulate: true };
