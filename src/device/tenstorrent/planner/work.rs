//! What a call of the library costs, in numbers that a time is a sum of. Called by `cli plan` for lowered programs, and by
//! `published` for what others measured.
//!
//! Each number is what the busiest core has to do, in microseconds at the chip's clock where the chip sets the pace, so that
//! a grid with fewer cores, or another clock, shows. Weights are counted in MB at a P150's bandwidth.

use super::super::TILE;
use super::super::card::Card;
use super::super::program::{
    Argument, Call, Compute, MatmulSpread, MinimalSpread, Origin, Program, TensorId,
};

/// What a time is a sum of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Starting a program.
    Programs,
    /// MB of weights that products of few rows wait for.
    FewRowsWeights,
    /// Products of tiles, in microseconds of a core that does nothing else.
    TileProducts,
    /// MB of weights of products of many rows.
    ManyRowsWeights,
    /// Tiles of scores times tiles of a head, of the core that has most of them; eight of the latter are one.
    Attention,
    /// Tiles that the busiest core reads and writes.
    MovedTiles,
}

impl Part {
    pub const ALL: [Self; 6] = [
        Self::Programs,
        Self::FewRowsWeights,
        Self::TileProducts,
        Self::ManyRowsWeights,
        Self::Attention,
        Self::MovedTiles,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::FewRowsWeights => "weights, few rows",
            Self::TileProducts => "tile products",
            Self::ManyRowsWeights => "weights, many rows",
            Self::Attention => "attention",
            Self::MovedTiles => "moved tiles",
        }
    }

    /// The unit of a constant: microseconds for what.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Programs => "us a program",
            Self::FewRowsWeights | Self::ManyRowsWeights => "us a MB of weights",
            Self::TileProducts => "of a core's time at one pass each",
            Self::Attention => "us a tile of scores",
            Self::MovedTiles => "us a tile",
        }
    }
}

/// How much there is of each [`Part`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work(pub [f64; Part::ALL.len()]);

/// Cycles in which a core multiplies two tiles, low bits left out: the vendor's 4096 operations a cycle.
const TILE_PRODUCT_CYCLES: f64 = 16.0;
/// The clock and the bandwidth of the card that was measured.
const MEASURED: Card = Card::P150;
/// Rows, in tiles, up to which a product waits for its weights.
const FEW: usize = 4;

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, value)| *sum += value);
    }
}

impl std::ops::Mul<f64> for Work {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self(self.0.map(|value| value * times))
    }
}

impl Work {
    fn of(parts: &[(Part, f64)]) -> Self {
        let mut work = Self::default();
        work.0[Part::Programs as usize] = 1.0;
        parts.iter().for_each(|&(part, value)| work.0[part as usize] = value);
        work
    }

    /// A product of `rows` tiles of rows with `weight_bytes` of weights, of which the busiest core multiplies `per_core` pairs
    /// of tiles in `passes` passes.
    pub fn product(card: &Card, rows: usize, weight_bytes: f64, per_core: usize, passes: usize) -> Self {
        let weights = if rows <= FEW { Part::FewRowsWeights } else { Part::ManyRowsWeights };
        let megabytes = weight_bytes / 1e6 * MEASURED.dram_bytes_per_s / card.dram_bytes_per_s;
        let microseconds = (per_core * passes) as f64 * TILE_PRODUCT_CYCLES / card.clock_hz * 1e6;
        Self::of(&[(weights, megabytes), (Part::TileProducts, microseconds)])
    }

    /// Attention of `queries` tiles of rows, over all heads, each to `keys` tiles of keys of `dim` tiles.
    pub fn attention(card: &Card, queries: usize, keys: usize, dim: usize) -> Self {
        let scores = (queries.div_ceil(card.cores()) * keys * dim) as f64 / 8.0;
        Self::of(&[(Part::Attention, scores * slower(card))])
    }

    /// Anything that reads and writes `tiles`, by `cores` of the card.
    pub fn moved(card: &Card, tiles: usize, cores: usize) -> Self {
        let per_core = tiles.div_ceil(cores.clamp(1, card.cores())) as f64;
        Self::of(&[(Part::MovedTiles, per_core * slower(card))])
    }

    /// What `call` of `program` is made of; nothing for a view.
    pub fn of_call(program: &Program, call: &Call, card: &Card) -> Self {
        if call.viewed().is_some() {
            return Self::default();
        }
        let tiles = |id: TensorId| {
            let shape = &program.tensor(id).shape;
            let rows: usize = shape[..shape.len() - 1].iter().product();
            [rows.div_ceil(TILE), shape[shape.len() - 1].div_ceil(TILE)]
        };
        let operand = |index: usize| match call.operands.get(index) {
            Some(Argument::Tensor(id)) => Some(*id),
            Some(Argument::List(items)) => items.iter().find_map(|item| match item {
                Argument::Tensor(id) => Some(*id),
                _ => None,
            }),
            _ => None,
        };
        let attribute =
            |name: &str| call.attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| value);
        let passes = match attribute("compute_kernel_config") {
            Some(Argument::Compute(Compute { fidelity, .. })) => {
                fidelity.chars().last().and_then(|digit| digit.to_digit(10)).unwrap_or(1) as usize
            }
            _ => 4,
        };
        let spread = attribute("program_config").or(attribute("config"));
        match (spread, operand(0), operand(1)) {
            (Some(Argument::MatmulSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, _]) = (tiles(x), tiles(weight));
                let MatmulSpread { per_core_m, per_core_n, .. } = spread;
                let bytes = program.tensor(weight).bytes() as f64;
                Self::product(card, m, bytes, per_core_m * per_core_n * k, passes)
            }
            (Some(Argument::MinimalSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, n]) = (tiles(x), tiles(weight));
                let MinimalSpread { grid: [across, down], m_block, n_block, .. } = *spread;
                let per_core_m = m.div_ceil(m_block).div_ceil(down) * m_block;
                let per_core_n = n.div_ceil(n_block).div_ceil(across) * n_block;
                let bytes = program.tensor(weight).bytes() as f64;
                Self::product(card, m, bytes, per_core_m * per_core_n * k, passes)
            }
            // Every user's keys are shared out among the cores that are left, and their results added up by one of them.
            (Some(Argument::Attention { .. }), Some(q), Some(k)) if call.operation.ends_with("_decode") => {
                let (pages, queries) = (&program.tensor(k).shape, &program.tensor(q).shape);
                let (users, width) = (queries[1], queries[3]);
                let (keys, dim) = (pages[0] * pages[2] / TILE, width.div_ceil(TILE));
                let shared = (card.cores() / users).max(1);
                let mut work = Self::attention(card, users, keys.div_ceil(shared), dim);
                work.0[Part::MovedTiles as usize] = (shared * dim) as f64 * slower(card);
                work
            }
            (Some(Argument::Attention { .. }), Some(q), Some(k)) => {
                let (keys, dim) = (&program.tensor(k).shape, &program.tensor(q).shape);
                Self::attention(card, tiles(q)[0], keys[2].div_ceil(TILE), dim[3].div_ceil(TILE))
            }
            _ => {
                let of = |id: TensorId| tiles(id).iter().product::<usize>();
                // A table is not read whole.
                let reads = call.reads().into_iter();
                let read: usize = reads
                    .filter(|&id| {
                        !(call.operation == "ttnn.embedding"
                            && matches!(program.tensor(id).origin, Origin::Content(_)))
                    })
                    .map(of)
                    .sum();
                let written: usize = call.results.iter().map(|&id| of(id)).sum();
                Self::moved(card, read + written, cores(program, call, card))
            }
        }
    }
}

/// How much slower than the measured one a card's cores are.
fn slower(card: &Card) -> f64 {
    MEASURED.clock_hz / card.clock_hz
}

/// Cores that share what is no product: all, or as many as there are rows of tiles or heads.
fn cores(program: &Program, call: &Call, card: &Card) -> usize {
    let result = call.results.first().map(|&id| program.tensor(id));
    let Some(result) = result else { return card.cores() };
    if let Some(shards) = result.memory.shards() {
        return shards.cores();
    }
    let rows: usize = result.shape[..result.shape.len() - 1].iter().product();
    match call.operation {
        "ttnn.rms_norm"
        | "ttnn.layer_norm"
        | "ttnn.experimental.rotary_embedding_llama"
        | "ttnn.experimental.nlp_create_qkv_heads"
        | "ttnn.transformer.split_query_key_value_and_split_heads" => rows.div_ceil(TILE),
        _ => card.cores(),
    }
}
