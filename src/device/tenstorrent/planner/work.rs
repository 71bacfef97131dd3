//! What a call of the library costs, in numbers that a time is a sum of. Called by `cli plan` for lowered programs, and by
//! `published` for what others measured.
//!
//! Each number is what the busiest core has to do, in microseconds at the chip's clock where the chip sets the pace, so that
//! a grid with fewer cores, or another clock, shows. Weights are counted in MB at a P150's bandwidth. Products of few rows wait for
//! their weights and then multiply; of many, the next weights come in meanwhile, and the longer of both counts.

use super::super::card::{Card, OPERATIONS_PER_CYCLE};
use super::super::program::{
    Argument, Call, Compute, MatmulSpread, MinimalSpread, Origin, Program, TensorId,
};
use super::super::{FEW_ROWS, TILE};

/// What a time is a sum of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Starting a program.
    Programs,
    /// MB of weights that products of few rows wait for.
    FewRowsWeights,
    /// Blocks of depth in which the rows are sent to all cores of a product of few rows.
    DepthBlocks,
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
    pub const ALL: [Self; 7] = [
        Self::Programs,
        Self::FewRowsWeights,
        Self::DepthBlocks,
        Self::TileProducts,
        Self::ManyRowsWeights,
        Self::Attention,
        Self::MovedTiles,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::FewRowsWeights => "weights, few rows",
            Self::DepthBlocks => "depth blocks, few rows",
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
            Self::DepthBlocks => "us a block",
            Self::FewRowsWeights | Self::ManyRowsWeights => "us a MB of weights",
            Self::TileProducts => "of a core's time at one pass each",
            Self::Attention => "us a tile of scores",
            Self::MovedTiles => "us a tile",
        }
    }
}

/// So much of each [`Part`], or so many microseconds of each.
pub type Parts = [f64; Part::ALL.len()];

/// How much there is to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    parts: Parts,
    overlapped: Vec<Overlapped>,
}

/// A product of many rows, so many times: weights that come in while tiles are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Overlapped {
    times: f64,
    megabytes: f64,
    microseconds: f64,
}

/// Cycles in which a core multiplies two tiles in one pass.
const TILE_PRODUCT_CYCLES: f64 = (2 * TILE * TILE * TILE) as f64 / OPERATIONS_PER_CYCLE;
/// The clock and the bandwidth of the card that was measured.
const MEASURED: Card = Card::P150;

/// A product, as far as its time depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Tiles.
    pub rows: usize,
    pub weight_bytes: f64,
    /// Pairs of tiles that the busiest core multiplies, and passes for each.
    pub per_core: usize,
    pub passes: usize,
    /// Blocks that the depth is taken in.
    pub blocks: usize,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.parts.iter_mut().zip(other.parts).for_each(|(sum, value)| *sum += value);
        self.overlapped.extend(other.overlapped);
    }
}

impl std::ops::Mul<f64> for Work {
    type Output = Self;

    fn mul(mut self, times: f64) -> Self {
        self.parts.iter_mut().for_each(|value| *value *= times);
        self.overlapped.iter_mut().for_each(|product| product.times *= times);
        self
    }
}

impl Work {
    fn of(parts: &[(Part, f64)]) -> Self {
        let mut work = Self::default();
        work.parts[Part::Programs as usize] = 1.0;
        parts.iter().for_each(|&(part, value)| work.parts[part as usize] = value);
        work
    }

    /// How much counts of each part where one of each costs `constants`: of what overlaps, the longer.
    pub fn counted(&self, constants: &Parts) -> Parts {
        let [weights, tiles] = [Part::ManyRowsWeights, Part::TileProducts].map(|part| part as usize);
        let mut parts = self.parts;
        for &Overlapped { times, megabytes, microseconds } in &self.overlapped {
            if constants[weights] * megabytes >= constants[tiles] * microseconds {
                parts[weights] += times * megabytes;
            } else {
                parts[tiles] += times * microseconds;
            }
        }
        parts
    }

    /// A product: of few rows it waits for its weights, of many the weights come in meanwhile.
    pub fn product(card: &Card, product: Product) -> Self {
        let Product { rows, weight_bytes, per_core, passes, blocks } = product;
        let megabytes = weight_bytes / 1e6 * MEASURED.dram_bytes_per_s / card.dram_bytes_per_s;
        let microseconds = (per_core * passes) as f64 * TILE_PRODUCT_CYCLES / card.clock_hz * 1e6;
        if rows > FEW_ROWS {
            return Self {
                overlapped: vec![Overlapped { times: 1.0, megabytes, microseconds }],
                ..Self::of(&[])
            };
        }
        Self::of(&[
            (Part::FewRowsWeights, megabytes),
            (Part::DepthBlocks, blocks as f64 * slower(card)),
            (Part::TileProducts, microseconds),
        ])
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
            _ => None,
        };
        let attribute =
            |name: &str| call.attributes.iter().find(|(found, _)| *found == name).map(|(_, value)| value);
        let product = |rows, weight, per_core, blocks| {
            let weight_bytes = program.tensor(weight).bytes() as f64;
            Self::product(card, Product { rows, weight_bytes, per_core, passes: passes(call), blocks })
        };
        let spread = attribute("program_config").or(attribute("config"));
        match (spread, operand(0), operand(1)) {
            (Some(Argument::MatmulSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, _]) = (tiles(x), tiles(weight));
                let MatmulSpread { per_core_m, per_core_n, in0_block_w, .. } = spread;
                product(m, weight, per_core_m * per_core_n * k, k / in0_block_w)
            }
            (Some(Argument::MinimalSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, n]) = (tiles(x), tiles(weight));
                let MinimalSpread { grid: [across, down], m_block, n_block, k_block, .. } = *spread;
                let per_core_m = m.div_ceil(m_block).div_ceil(down) * m_block;
                let per_core_n = n.div_ceil(n_block).div_ceil(across) * n_block;
                product(m, weight, per_core_m * per_core_n * k, k / k_block)
            }
            // Every user's keys are shared out, so many at a time, among the cores that are left, and their results added up by
            // one of them.
            (Some(Argument::Attention { keys: at_once, .. }), Some(q), Some(k))
                if call.operation.ends_with("_decode") =>
            {
                let (pages, queries) = (&program.tensor(k).shape, &program.tensor(q).shape);
                let (users, width) = (queries[1], queries[3]);
                let (keys, dim) = (pages[0] * pages[2] / TILE, width.div_ceil(TILE));
                let shared = (card.cores() / users).max(1);
                let at_once = at_once / TILE;
                let busiest = keys.div_ceil(at_once).div_ceil(shared) * at_once;
                let mut work = Self::attention(card, users, busiest, dim);
                work.parts[Part::MovedTiles as usize] = (shared * dim) as f64 * slower(card);
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

/// In how many passes a call multiplies: `HiFi2` in two, `LoFi` in one.
pub(super) fn passes(call: &Call) -> usize {
    let config = call.attributes.iter().find(|(name, _)| *name == "compute_kernel_config");
    match config {
        Some((_, Argument::Compute(Compute { fidelity, .. }))) => {
            fidelity.chars().last().and_then(|digit| digit.to_digit(10)).unwrap_or(1) as usize
        }
        _ => 4,
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
