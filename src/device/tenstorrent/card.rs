//! The cards, as far as lowering and planning need to know them. Called by `lower`, by `cli plan`, and at start to check
//! that the card is the one that was asked for.
//!
//! Sizes of DRAM, grids and bandwidths are the vendor's; what silicon reaches of them is not known here.

/// What a core multiplies and adds in a cycle and one pass; the vendor's figure.
pub const OPERATIONS_PER_CYCLE: f64 = 4096.0;

/// Cores to which the library's attention of one token each gives a user's keys, at most, where it is not told otherwise.
const CORES_OF_A_USER: usize = 16;

/// A card of which one chip is used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// As parameters and options name it.
    pub name: &'static str,
    /// As tt-metal names its architecture.
    pub architecture: &'static str,
    /// Columns and rows of cores that compute.
    pub grid: [usize; 2],
    pub l1_bytes_per_core: usize,
    pub dram_bytes: usize,
    /// Banks of DRAM, over which a tensor's tiles are dealt in turn.
    pub dram_banks: usize,
    /// Peak, per second.
    pub dram_bytes_per_s: f64,
    /// Peak of dense products with bf16 factors, per second, as the vendor gives it for the whole chip.
    pub flops: f64,
    /// Cycles of a core, per second.
    pub clock_hz: f64,
    /// An activation that takes at most so much of each core's L1 stays there. What is left is for the circular buffers of
    /// the operations: on an N150 a layer of the language model needs nearly all of it.
    pub l1_activation_bytes_per_core: usize,
}

impl Card {
    pub const P150: Self = Self {
        name: "p150",
        architecture: "blackhole",
        grid: [13, 10],
        l1_bytes_per_core: 1_572_864,
        dram_bytes: 32 << 30,
        dram_banks: 8,
        dram_bytes_per_s: 512e9,
        flops: 370e12,
        clock_hz: 1.35e9,
        // All of them, with three cameras.
        l1_activation_bytes_per_core: 256 << 10,
    };

    pub const N150: Self = Self {
        name: "n150",
        architecture: "wormhole_b0",
        grid: [8, 8],
        l1_bytes_per_core: 1_499_136,
        dram_bytes: 12 << 30,
        dram_banks: 12,
        dram_bytes_per_s: 288e9,
        flops: 74e12,
        clock_hz: 1.0e9,
        l1_activation_bytes_per_core: 16 << 10,
    };

    /// Two chips like the N150's, of which the first is used.
    pub const N300: Self = Self { name: "n300", ..Self::N150 };

    pub const ALL: [Self; 3] = [Self::P150, Self::N150, Self::N300];

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|card| card.name == name)
    }

    /// How many pieces of so many tiles fill all banks evenly: after that many, the next begins in the first bank.
    pub fn pages_at_once(&self, tiles: usize) -> usize {
        (1..=self.dram_banks).find(|pieces| (pieces * tiles).is_multiple_of(self.dram_banks)).unwrap_or(1)
    }

    /// Operations that all cores do in a second, in one pass.
    pub fn operations_per_s(&self) -> f64 {
        self.cores() as f64 * OPERATIONS_PER_CYCLE * self.clock_hz
    }

    pub fn cores(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// Cores that share the keys of each of `users`.
    pub fn cores_of_a_user(&self, users: usize) -> usize {
        (self.cores() / users).clamp(1, CORES_OF_A_USER)
    }
}
