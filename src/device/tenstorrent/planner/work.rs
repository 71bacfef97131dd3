//! What a call of the library costs, in numbers that a time is a sum of. Called by `cli plan` for lowered programs, and by
//! `published` for what others measured.
//!
//! Each number is what the busiest core has to do, in microseconds at the chip's clock where the chip sets the pace, so that
//! a grid with fewer cores, or another clock, shows. What is read from DRAM is counted in MB at a P150's bandwidth. Of what goes on at
//! once (weights that come in, rows that are sent, tiles that are multiplied) the longest counts.

use super::super::card::{Card, OPERATIONS_PER_CYCLE};
use super::super::program::{Argument, Call, Compute, MatmulSpread, MinimalSpread, Program, TensorId};
use super::super::{FEW_ROWS, TILE};
use super::split;

/// What a time is a sum of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Between two programs of a trace.
    Gaps,
    /// A program that has nothing to do.
    Programs,
    /// MB that cores read, each its own, from DRAM: weights of products of few rows, keys and values that few queries attend to.
    ReadMegabytes,
    /// Tiles of few rows that one core reads and sends to all.
    SentTiles,
    /// Products of tiles, in microseconds of a core that does nothing else.
    TileProducts,
    /// MB of weights of products of many rows.
    ManyRowsWeights,
    /// Tiles of scores, of the core that has most of them.
    Scores,
    /// The same times tiles of a head; eight of the latter are one.
    Attention,
    /// Tiles that an activation is taken of.
    ActivatedTiles,
    /// Tiles that the busiest core reads, writes, or adds up beside what it has.
    MovedTiles,
}

impl Part {
    pub const ALL: [Self; 10] = [
        Self::Gaps,
        Self::Programs,
        Self::ReadMegabytes,
        Self::SentTiles,
        Self::TileProducts,
        Self::ManyRowsWeights,
        Self::Scores,
        Self::Attention,
        Self::ActivatedTiles,
        Self::MovedTiles,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Gaps => "gaps",
            Self::Programs => "programs",
            Self::ReadMegabytes => "reading, few rows",
            Self::SentTiles => "sending, few rows",
            Self::TileProducts => "tile products",
            Self::ManyRowsWeights => "weights, many rows",
            Self::Scores => "scores",
            Self::Attention => "attention",
            Self::ActivatedTiles => "activations",
            Self::MovedTiles => "moved tiles",
        }
    }

    /// The unit of a constant: microseconds for what.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Gaps => "us between programs",
            Self::Programs => "us a program",
            Self::ReadMegabytes | Self::ManyRowsWeights => "us a MB",
            Self::SentTiles | Self::ActivatedTiles | Self::MovedTiles => "us a tile",
            Self::TileProducts => "of a core's time at one pass each",
            Self::Scores => "us a tile of scores",
            Self::Attention => "us a tile of scores of heads of 256",
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

/// What goes on at once, so many times: the longest counts.
#[derive(Clone, Debug, PartialEq)]
struct Overlapped {
    times: f64,
    parts: Vec<(Part, f64)>,
}

/// Cycles in which a core multiplies two tiles in one pass.
const TILE_PRODUCT_CYCLES: f64 = (2 * TILE * TILE * TILE) as f64 / OPERATIONS_PER_CYCLE;
/// The clock and the bandwidth of the card that was measured.
const MEASURED: Card = Card::P150;

/// A product, as far as its time depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Tiles of rows and of depth.
    pub rows: usize,
    pub depth: usize,
    pub weight_bytes: f64,
    /// Tiles of the result that the busiest core has, and passes in which factors are multiplied.
    pub per_core: usize,
    pub passes: usize,
    pub activated: bool,
}

/// Attention, as far as its time depends on it, in tiles.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// Heads of all sequences, queries of each, and how many of these a core takes at a time.
    pub heads: usize,
    pub queries: usize,
    pub at_once: usize,
    /// Keys, padded to whole blocks.
    pub keys: usize,
    pub dim: usize,
    /// Exponentials that are not approximated take as long again as all else that is done with scores (tt-metal's pi0.5,
    /// p150/tt/ttnn_common.py: attention twice as long, 3 to 7 ms more in all).
    pub exact: bool,
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
        self.overlapped.iter_mut().for_each(|overlapped| overlapped.times *= times);
        self
    }
}

impl Work {
    /// A program, and beside it one after the other.
    fn of(parts: &[(Part, f64)]) -> Self {
        let mut work = Self::default();
        work.parts[Part::Programs as usize] = 1.0;
        parts.iter().for_each(|&(part, value)| work.parts[part as usize] += value);
        work
    }

    /// The same within a trace.
    pub fn in_a_trace(mut self) -> Self {
        self.parts[Part::Gaps as usize] = self.parts[Part::Programs as usize];
        self
    }

    fn at_once(mut self, parts: Vec<(Part, f64)>) -> Self {
        self.overlapped.push(Overlapped { times: 1.0, parts });
        self
    }

    /// How much counts of each part where one of each costs `constants`: of what goes on at once, the longest.
    pub fn counted(&self, constants: &Parts) -> Parts {
        let mut counted = self.parts;
        for Overlapped { times, parts } in &self.overlapped {
            let takes = |&(part, amount): &(Part, f64)| constants[part as usize] * amount;
            let longest = parts.iter().copied().max_by(|a, b| takes(a).total_cmp(&takes(b)));
            if let Some((part, amount)) = longest {
                counted[part as usize] += times * amount;
            }
        }
        counted
    }

    /// A product: its weights come in while tiles are multiplied and, if there are few rows, while one core reads and sends these.
    pub fn product(card: &Card, product: Product) -> Self {
        let Product { rows, depth, weight_bytes, per_core, passes, activated } = product;
        let megabytes = megabytes(card, weight_bytes);
        let microseconds = (per_core * depth * passes) as f64 * TILE_PRODUCT_CYCLES / card.clock_hz * 1e6;
        let tiles = (Part::TileProducts, microseconds);
        let activations = if activated { per_core as f64 * slower(card) } else { 0.0 };
        Self::of(&[(Part::ActivatedTiles, activations)]).at_once(match rows > FEW_ROWS {
            true => vec![(Part::ManyRowsWeights, megabytes), tiles],
            false => {
                let sent = (rows * depth) as f64 * slower(card);
                vec![(Part::ReadMegabytes, megabytes), (Part::SentTiles, sent), tiles]
            }
        })
    }

    pub fn attention(card: &Card, attention: Attention) -> Self {
        let Attention { heads, queries, at_once, keys, dim, exact } = attention;
        let blocks = heads * queries.div_ceil(at_once);
        let scores = (blocks.div_ceil(card.cores()) * at_once * keys) as f64 * slower(card);
        let counted = if exact { 2.0 * scores } else { scores };
        Self::of(&[(Part::Scores, counted), (Part::Attention, scores * dim as f64 / 8.0)])
    }

    /// An activation of so many tiles of the busiest core, by itself.
    pub fn activation(card: &Card, tiles: usize) -> Self {
        Self { parts: of_part(Part::ActivatedTiles, tiles as f64 * slower(card)), ..Self::default() }
    }

    /// Anything of which the busiest core reads, writes or has so many tiles.
    pub fn moved(card: &Card, per_core: usize) -> Self {
        Self::of(&[(Part::MovedTiles, per_core as f64 * slower(card))])
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
        let product = |m, depth, weight, per_core, activated| {
            let weight_bytes = program.tensor(weight).bytes() as f64;
            Self::product(
                card,
                Product { rows: m, depth, weight_bytes, per_core, passes: passes(call), activated },
            )
        };
        let spread = attribute("program_config").or(attribute("config"));
        match (spread, operand(0), operand(1)) {
            (Some(Argument::MatmulSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, _]) = (tiles(x), tiles(weight));
                let MatmulSpread { per_core_m, per_core_n, activation, .. } = spread;
                product(m, k, weight, per_core_m * per_core_n, activation.is_some())
            }
            (Some(Argument::MinimalSpread(spread)), Some(x), Some(weight)) => {
                let ([m, _], [k, n]) = (tiles(x), tiles(weight));
                let MinimalSpread { grid: [across, down], m_block, n_block, .. } = *spread;
                let per_core_m = m.div_ceil(m_block).div_ceil(down) * m_block;
                let per_core_n = n.div_ceil(n_block).div_ceil(across) * n_block;
                product(m, k, weight, per_core_m * per_core_n, false)
            }
            (Some(Argument::Attention { keys: at_once, .. }), Some(q), Some(k))
                if call.operation.ends_with("_decode") =>
            {
                let (queries, pages) = (&program.tensor(q).shape, &program.tensor(k).shape);
                let keys = pages[0] * pages[2] / TILE;
                attention_to_shared_keys(card, queries, keys, at_once / TILE, program.tensor(k).bytes())
            }
            (
                Some(&Argument::Attention { queries: at_once, keys: block, approximate, .. }),
                Some(q),
                Some(k),
            ) => {
                let (q, keys) = (&program.tensor(q).shape, program.tensor(k).shape[2].div_ceil(TILE));
                let block = block / TILE;
                let attention = Attention {
                    heads: q[0] * q[1],
                    queries: q[2].div_ceil(TILE),
                    at_once: at_once / TILE,
                    keys: keys.div_ceil(block) * block,
                    dim: q[3].div_ceil(TILE),
                    exact: !approximate,
                };
                Self::attention(card, attention)
            }
            _ => {
                let activated = attribute("input_tensor_a_activations").is_some();
                let (moved, results) = split::busiest(program, call, card);
                let mut work = Self::moved(card, moved);
                if activated {
                    work += Self::activation(card, results);
                }
                work
            }
        }
    }
}

/// Attention of users that have the same keys: their cores read them from DRAM each for itself, share them out by blocks, and add up
/// what they found two by two: sums, maxima, and a head for each tile of queries.
fn attention_to_shared_keys(card: &Card, q: &[usize], keys: usize, block: usize, key_bytes: usize) -> Work {
    let (users, queries, dim) = (q[1], q[2] / TILE, q[3].div_ceil(TILE));
    let (blocks, shared) = (keys / block, card.cores_of_a_user(users));
    let scores = (blocks.div_ceil(shared) * block * queries) as f64 * slower(card);
    let rounds = blocks.min(shared).next_power_of_two().ilog2() as usize;
    let added = (rounds * queries * (dim + 2)) as f64 * slower(card);
    let read = megabytes(card, (2 * users * key_bytes) as f64);
    Work::of(&[(Part::Scores, scores), (Part::MovedTiles, added)])
        .at_once(vec![(Part::ReadMegabytes, read), (Part::Attention, scores * dim as f64 / 8.0)])
}

/// MB, at a P150's bandwidth.
fn megabytes(card: &Card, bytes: f64) -> f64 {
    bytes / 1e6 * MEASURED.dram_bytes_per_s / card.dram_bytes_per_s
}

fn of_part(part: Part, value: f64) -> Parts {
    let mut parts = Parts::default();
    parts[part as usize] = value;
    parts
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
