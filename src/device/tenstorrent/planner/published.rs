//! Measurements that others published, and a description of what they measured: `published.json`, which names their sources.
//! Called by `fit`.
//!
//! The description of tt-metal's pi0.5 is of what its programs do (shapes, passes, cores), as far as the time depends on it.

use serde::Deserialize;

use super::super::card::Card;
use super::super::program::DataType;
use super::super::{FEW_ROWS, TILE};
use super::work::{Product as Multiplied, Work};

#[derive(Debug, Deserialize)]
pub struct Published {
    products: Products,
    moves: Moves,
    pub port: Port,
}

#[derive(Debug, Deserialize)]
struct Products {
    source: String,
    grid: [usize; 2],
    passes: usize,
    measured: Vec<Product>,
}

#[derive(Debug, Deserialize)]
struct Product {
    name: String,
    rows: usize,
    depth: usize,
    columns: usize,
    weights: DataType,
    /// Tiles of columns of a core, if they are known; the fewest for the whole grid otherwise.
    columns_per_core: Option<usize>,
    /// Tiles of depth at a time, if they are known.
    block: Option<usize>,
    us: f64,
}

#[derive(Debug, Deserialize)]
struct Moves {
    source: String,
    grid: [usize; 2],
    measured: Vec<Move>,
}

#[derive(Debug, Deserialize)]
struct Move {
    name: String,
    tiles: usize,
    cores: usize,
    us: f64,
}

/// A whole model that others made: what was measured, and what it does.
#[derive(Debug, Deserialize)]
pub struct Port {
    pub source: String,
    pub measured: Vec<Run>,
    prefix_rows: std::collections::BTreeMap<usize, usize>,
    suffix_rows: usize,
    stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Run {
    pub steps: usize,
    pub cameras: usize,
    /// Columns and rows of cores.
    pub grid: [usize; 2],
    pub ms: f64,
}

#[derive(Debug, Deserialize)]
struct Stage {
    times: usize,
    #[serde(default)]
    per_step: bool,
    rows: Rows,
    calls: Vec<Described>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Rows {
    Images,
    Prefix,
    Suffix,
}

#[derive(Debug, Deserialize)]
struct Described {
    #[serde(default = "one")]
    count: usize,
    #[serde(flatten)]
    kind: Kind,
}

fn one() -> usize {
    1
}

#[derive(Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Kind {
    Product {
        depth: usize,
        columns: usize,
        passes: usize,
    },
    Attention {
        #[serde(default)]
        heads: usize,
        #[serde(default)]
        heads_per_image: usize,
        dim: usize,
    },
    /// So many tiles for each tile of rows.
    Move {
        tiles: usize,
        spread: Spread,
    },
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
enum Spread {
    Cores(usize),
    Named(Named),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Named {
    All,
    /// A core for each tile of rows.
    Rows,
    /// All cores of a grid that is wide enough for the port's blocks, else a core for each tile of rows.
    Blocks,
}

/// Columns of cores from which on the port lays its image tower out in blocks.
const COLUMNS_FOR_BLOCKS: usize = 12;
/// Tiles of depth that the port takes at a time of few rows.
const DEPTH_OF_FEW: usize = 16;
/// Tokens of an image.
const IMAGE_ROWS: usize = 256;

/// One measurement with what it is made of.
pub struct Sample {
    pub name: String,
    pub source: String,
    pub work: Work,
    pub us: f64,
    /// A whole run; the others are single operations.
    pub whole: bool,
}

impl Published {
    /// What is kept in this repository.
    pub fn kept() -> Result<Self, serde_json::Error> {
        serde_json::from_str(include_str!("published.json"))
    }

    pub fn samples(&self) -> Vec<Sample> {
        let Self { products, moves, port } = self;
        let card = |grid| Card { grid, ..Card::P150 };
        let product = |measured: &Product| {
            let Product { rows, depth, columns, weights, columns_per_core, block, .. } = measured;
            let shape = [*rows, *depth, *columns];
            Sample {
                name: measured.name.clone(),
                source: products.source.clone(),
                work: described_product(
                    &card(products.grid),
                    shape,
                    *weights,
                    products.passes,
                    [*columns_per_core, *block],
                ),
                us: measured.us,
                whole: false,
            }
        };
        let moved = |measured: &Move| Sample {
            name: measured.name.clone(),
            source: moves.source.clone(),
            work: Work::moved(&card(moves.grid), measured.tiles, measured.cores),
            us: measured.us,
            whole: false,
        };
        let run = |run: &Run| Sample {
            name: format!(
                "pi0.5 of tt-metal, {} cameras, {} steps, {} x {} cores",
                run.cameras, run.steps, run.grid[0], run.grid[1]
            ),
            source: port.source.clone(),
            work: port.work(run),
            us: run.ms * 1e3,
            whole: true,
        };
        let operations = products.measured.iter().map(product).chain(moves.measured.iter().map(moved));
        operations.chain(port.measured.iter().map(run)).collect()
    }
}

impl Port {
    /// What one run is made of.
    pub fn work(&self, run: &Run) -> Work {
        let card = Card { grid: run.grid, ..Card::P150 };
        let images = IMAGE_ROWS * run.cameras;
        let prefix = self.prefix_rows.get(&run.cameras).copied().unwrap_or(images + IMAGE_ROWS);
        let mut all = Work::default();
        for stage in &self.stages {
            let times = stage.times * if stage.per_step { run.steps } else { 1 };
            let (rows, keys) = match stage.rows {
                Rows::Images => (images, IMAGE_ROWS),
                Rows::Prefix => (prefix, prefix),
                Rows::Suffix => (self.suffix_rows, prefix + self.suffix_rows),
            };
            let tiles = rows / TILE;
            for call in &stage.calls {
                let work = match call.kind {
                    Kind::Product { depth, columns, passes } => described_product(
                        &card,
                        [rows, depth, columns],
                        DataType::Bfloat8B,
                        passes,
                        [None, None],
                    ),
                    Kind::Attention { heads, heads_per_image, dim } => {
                        // An image's queries see that image alone.
                        let queries = heads * tiles + heads_per_image * tiles;
                        Work::attention(&card, queries, keys / TILE, dim.div_ceil(TILE))
                    }
                    Kind::Move { tiles: each, spread } => {
                        let cores = match spread {
                            Spread::Cores(cores) => cores,
                            Spread::Named(Named::Blocks) if run.grid[0] < COLUMNS_FOR_BLOCKS => tiles,
                            Spread::Named(Named::Rows) => tiles,
                            Spread::Named(Named::All | Named::Blocks) => card.cores(),
                        };
                        Work::moved(&card, tiles * each, cores)
                    }
                };
                all += work * (times * call.count) as f64;
            }
        }
        all
    }
}

/// A product spread as the port does: few rows by columns over all cores, many in blocks.
fn described_product(
    card: &Card,
    shape: [usize; 3],
    weights: DataType,
    passes: usize,
    [columns_per_core, block]: [Option<usize>; 2],
) -> Work {
    let [m, k, n] = shape.map(|length| length.div_ceil(TILE));
    let weight_bytes = weights.bytes(k * n * TILE * TILE) as f64;
    let [across, down] = card.grid;
    let tiles = match m {
        0..=FEW_ROWS => m * columns_per_core.unwrap_or(n.div_ceil(across * down)),
        _ => m.div_ceil(down) * n.div_ceil(across),
    };
    let blocks = k.div_ceil(block.unwrap_or(DEPTH_OF_FEW));
    Work::product(card, Multiplied { rows: m, weight_bytes, per_core: tiles * k, passes, blocks })
}
