//! Measurements that others published, and a description of what they measured: `published.json`, which names their sources.
//! Called by `fit`.
//!
//! The description of tt-metal's pi0.5 is of what its programs do (shapes, passes, cores), as far as the time depends on it.

use serde::Deserialize;

use super::super::card::Card;
use super::super::program::DataType;
use super::super::{FEW_ROWS, TILE};
use super::work::{self, Work};

#[derive(Debug, Deserialize)]
pub struct Published {
    products: Vec<Measured<Product>>,
    moves: Vec<Measured<Move>>,
    activations: Vec<Measured<Move>>,
    attentions: Vec<Measured<Attention>>,
    pub port: Port,
}

/// What one source measured.
#[derive(Debug, Deserialize)]
struct Measured<Of> {
    source: String,
    /// Columns and rows of cores, where the work is not given by core.
    #[serde(default = "whole_grid")]
    grid: [usize; 2],
    /// Of products.
    #[serde(default)]
    passes: usize,
    measured: Vec<Of>,
}

fn whole_grid() -> [usize; 2] {
    Card::P150.grid
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
    us: f64,
}

#[derive(Debug, Deserialize)]
struct Move {
    name: String,
    /// That the busiest core reads, writes or has.
    tiles: usize,
    #[serde(default = "one")]
    programs: usize,
    us: f64,
}

/// In tiles, but for the elements of a head.
#[derive(Debug, Deserialize)]
struct Attention {
    name: String,
    heads: usize,
    queries: usize,
    queries_at_once: usize,
    keys: usize,
    dim: usize,
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
        #[serde(default)]
        activated: bool,
    },
    Attention {
        #[serde(default)]
        heads: usize,
        #[serde(default)]
        heads_per_image: usize,
        dim: usize,
    },
    /// So many tiles for each tile of rows.
    Move { tiles: usize, spread: Spread },
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
/// Tiles of queries that a core of the port takes at a time, of images and the prefix.
const QUERIES_AT_ONCE: usize = 2;
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
        let Self { products, moves, activations, attentions, port } = self;
        let sample = |source: &String, name: &String, us: f64, work: Work| Sample {
            name: name.clone(),
            source: source.clone(),
            work,
            us,
            whole: false,
        };
        let card = |grid| Card { grid, ..Card::P150 };
        let product = |Measured { source, grid, passes, measured }: &Measured<Product>| {
            let of = |product: &Product| {
                let Product { rows, depth, columns, weights, columns_per_core, .. } = *product;
                let described =
                    Shape { shape: [rows, depth, columns], weights, passes: *passes, activated: false };
                let work = described_product(&card(*grid), described, columns_per_core);
                sample(source, &product.name, product.us, work)
            };
            measured.iter().map(of).collect::<Vec<_>>()
        };
        let moved = |Measured { source, measured, .. }: &Measured<Move>| {
            let of = |Move { name, tiles, programs, us }: &Move| {
                let nothing = Work::moved(&Card::P150, 0) * (programs - 1) as f64;
                let mut work = Work::moved(&Card::P150, *tiles);
                work += nothing;
                sample(source, name, *us, work)
            };
            measured.iter().map(of).collect::<Vec<_>>()
        };
        let activated = |Measured { source, measured, .. }: &Measured<Move>| {
            let of = |Move { name, tiles, us, .. }: &Move| {
                sample(source, name, *us, Work::activation(&Card::P150, *tiles))
            };
            measured.iter().map(of).collect::<Vec<_>>()
        };
        let attention = |Measured { source, grid, measured, .. }: &Measured<Attention>| {
            let of = |attention: &Attention| {
                let Attention { heads, queries, queries_at_once: at_once, keys, dim, us, .. } = *attention;
                let dim = dim.div_ceil(TILE);
                let work = work::Attention { heads, queries, at_once, keys, dim, exact: false };
                sample(source, &attention.name, us, Work::attention(&card(*grid), work))
            };
            measured.iter().map(of).collect::<Vec<_>>()
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
        let operations = products.iter().flat_map(product).chain(moves.iter().flat_map(moved));
        let operations = operations.chain(activations.iter().flat_map(activated));
        let operations = operations.chain(attentions.iter().flat_map(attention));
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
                    Kind::Product { depth, columns, passes, activated } => {
                        let shape = [rows, depth, columns];
                        let product = Shape { shape, weights: DataType::Bfloat8B, passes, activated };
                        described_product(&card, product, None)
                    }
                    Kind::Attention { heads, heads_per_image, dim } => {
                        // An image's queries see that image alone.
                        let (heads, queries) = match heads_per_image {
                            0 => (heads, tiles),
                            each => (each * run.cameras, IMAGE_ROWS / TILE),
                        };
                        let at_once = if stage.per_step { 1 } else { QUERIES_AT_ONCE };
                        let (keys, dim) = (keys / TILE, dim.div_ceil(TILE));
                        Work::attention(
                            &card,
                            work::Attention { heads, queries, at_once, keys, dim, exact: false },
                        )
                    }
                    Kind::Move { tiles: each, spread } => {
                        let cores = match spread {
                            Spread::Cores(cores) => cores,
                            Spread::Named(Named::Blocks) if run.grid[0] < COLUMNS_FOR_BLOCKS => tiles,
                            Spread::Named(Named::Rows) => tiles,
                            Spread::Named(Named::All | Named::Blocks) => card.cores(),
                        };
                        Work::moved(&card, (tiles * each).div_ceil(cores))
                    }
                };
                all += work.in_a_trace() * (times * call.count) as f64;
            }
        }
        all
    }
}

/// A product, as a source describes it.
struct Shape {
    /// Rows, depth, columns.
    shape: [usize; 3],
    weights: DataType,
    passes: usize,
    activated: bool,
}

/// A product spread as the port does: few rows by columns over all cores, many in blocks.
fn described_product(card: &Card, product: Shape, columns_per_core: Option<usize>) -> Work {
    let Shape { shape, weights, passes, activated } = product;
    let [rows, depth, columns] = shape.map(|length| length.div_ceil(TILE));
    let weight_bytes = weights.bytes(depth * columns * TILE * TILE) as f64;
    let [across, down] = card.grid;
    let per_core = match rows {
        0..=FEW_ROWS => rows * columns_per_core.unwrap_or(columns.div_ceil(across * down)),
        _ => rows.div_ceil(down) * columns.div_ceil(across),
    };
    Work::product(card, work::Product { rows, depth, weight_bytes, per_core, passes, activated })
}
