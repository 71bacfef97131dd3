//! How products are spread over the cores of a card. Called by `products`.
//!
//! Few rows: every core takes all of them and its share of the columns, so that each weight is read by one core. Many rows:
//! blocks of rows and columns, one per core. The library's own choice (`core_grid` alone) takes 1.3 to 4 times as long for
//! such shapes (tt-metal, models/experimental/pi0_5/docs/mmdecode/all_runs_comprehensive.md).

use super::super::card::Card;
use super::super::program::{DataType, MatmulSpread, Memory, MinimalSpread, Shards};
use super::super::{FEW_ROWS, TILE};

/// Tiles that a core can sum at once in f32.
const SUMS: usize = 4;
/// Cores that share a norm of few rows, at most so many in a row: every card has these.
const NORM_CORES: usize = 32;
const NORM_CORES_ACROSS: usize = 8;
/// Tiles of depth that a core takes at a time, of few rows and of many: few are sent to all cores in fewer blocks.
const DEPTH_OF_FEW: usize = 16;
const DEPTH: usize = 8;
/// Tiles of columns that a core takes at a time where it has several such blocks, at most.
const COLUMNS: usize = 8;
/// Bytes of a core's L1 that are not for tensors and blocks.
const L1_RESERVED: usize = 128 << 10;

/// A product of `[m, k]` and `[k, n]` tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiles {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// For `ttnn.linear` with a left side that lies in `left` and a result that lies in `result`.
pub(super) fn linear(
    tiles: Tiles,
    [left, result]: [Memory; 2],
    card: &Card,
    activation: Option<&'static str>,
) -> MatmulSpread {
    let Tiles { m, k, n } = tiles;
    let [across, down] = card.grid;
    let columns_only = m <= FEW_ROWS;
    let blocks = left.shards();
    // What lies in blocks lies one way.
    let transposed = match (result, blocks) {
        (Memory::Blocks(shards), _) | (_, Some(shards)) => shards.transposed,
        _ => !columns_only && is_transposed(tiles, card),
    };
    let (grid, per_core_m, per_core_n) = match result {
        Memory::Columns(Shards { grid, width, .. }) => (grid, m, width / TILE),
        Memory::Blocks(Shards { grid, rows, width, .. }) => (grid, rows / TILE, width / TILE),
        _ if columns_only => {
            let per_core = n.div_ceil(across * down);
            let cores = n.div_ceil(per_core);
            ([across.min(cores), cores.div_ceil(across)], m, per_core)
        }
        _ if transposed => {
            let (per_core_m, per_core_n) = (m.div_ceil(across), n.div_ceil(down));
            // Cores beside which the left side lies send it, and are among them.
            let rows = if blocks.is_some() { down } else { n.div_ceil(per_core_n) };
            ([m.div_ceil(per_core_m), rows], per_core_m, per_core_n)
        }
        _ => {
            let (per_core_m, per_core_n) = (m.div_ceil(down), n.div_ceil(across));
            let columns = if blocks.is_some() { across } else { n.div_ceil(per_core_n) };
            ([columns, m.div_ceil(per_core_m)], per_core_m, per_core_n)
        }
    };
    // Nothing is cut that lies beside one core.
    let beside_one = blocks.map_or(k, |shards| shards.width / TILE);
    let limit = if columns_only { DEPTH_OF_FEW } else { depth([per_core_m, per_core_n], card) };
    let cuts_evenly = |deep: &usize| k.is_multiple_of(*deep) && beside_one.is_multiple_of(*deep);
    let in0_block_w = (1..=limit).rev().find(cuts_evenly).unwrap_or(1);
    let out_subblock_w = divisor(per_core_n, SUMS);
    // Beside each core its part is written in whole rows.
    let whole_rows = out_subblock_w == per_core_n || result.shards().is_none();
    let out_subblock_h = if whole_rows { divisor(per_core_m, SUMS / out_subblock_w) } else { 1 };
    MatmulSpread {
        columns_only,
        transposed,
        grid,
        in0_block_w,
        out_subblock_h,
        out_subblock_w,
        per_core_m,
        per_core_n,
        activation,
    }
}

/// Tiles of depth for which a core that has so many tiles of a result of many rows has room: two blocks of each factor, beside sums in f32,
/// the result, and another one like it.
fn depth([rows, columns]: [usize; 2], card: &Card) -> usize {
    let [bf16, f32] = [DataType::Bfloat16, DataType::Float32].map(|dtype| dtype.bytes(TILE * TILE));
    let results = rows * columns * (f32 + 2 * bf16);
    let left = card.l1_bytes_per_core.saturating_sub(L1_RESERVED + results);
    (left / (2 * (rows + columns) * bf16)).clamp(1, DEPTH)
}

/// Whether the busiest core of a product of many rows has less to do where rows lie along the rows of cores.
fn is_transposed(Tiles { m, n, .. }: Tiles, card: &Card) -> bool {
    let [across, down] = card.grid;
    m.div_ceil(across) * n.div_ceil(down) < m.div_ceil(down) * n.div_ceil(across)
}

/// Where both results of two products of many rows lie, so that they can be multiplied without moving anything, if there is room
/// for them beside what the second product takes: the first one's result, sums in f32, and two blocks of each factor.
pub(super) fn halves(tiles: Tiles, weights: DataType, card: &Card) -> Option<Memory> {
    let Tiles { m, k, n } = tiles;
    let [across, down] = card.grid;
    let transposed = is_transposed(tiles, card);
    let [for_rows, for_columns] = if transposed { [across, down] } else { [down, across] };
    let (per_core_m, per_core_n) = (m.div_ceil(for_rows), n.div_ceil(for_columns));
    let [rows, columns] = [m.div_ceil(per_core_m), n.div_ceil(per_core_n)];
    let grid = if transposed { [rows, columns] } else { [columns, rows] };
    let shards = Shards { grid, rows: per_core_m * TILE, width: per_core_n * TILE, transposed };
    let [bf16, f32] = [DataType::Bfloat16, DataType::Float32].map(|dtype| dtype.bytes(TILE * TILE));
    let deep = divisor(k, depth([per_core_m, per_core_n], card));
    let results = per_core_m * per_core_n * (2 * bf16 + f32);
    let blocks = 2 * deep * (per_core_m * bf16 + per_core_n * weights.bytes(TILE * TILE));
    // The stream of residuals and what its norm gives.
    let rows = match stream(m * TILE, k * TILE, card).and_then(Memory::shards) {
        Some(shards) => DataType::Bfloat16.bytes(shards.rows * shards.width),
        None => (m * k).div_ceil(card.cores()) * bf16,
    };
    (results + blocks + 2 * rows + L1_RESERVED <= card.l1_bytes_per_core).then_some(Memory::Blocks(shards))
}

/// Where a stream of residuals lies, so that many cores share its norms: few rows by columns, beside rows of cores of which each
/// has some; many in blocks, where they fit and more cores have one than there are tiles of rows.
pub(super) fn stream(rows: usize, width: usize, card: &Card) -> Option<Memory> {
    if !rows.is_multiple_of(TILE) || !width.is_multiple_of(TILE) {
        return None;
    }
    let (m, n) = (rows / TILE, width / TILE);
    if m <= FEW_ROWS {
        let cores = divisor(n, NORM_CORES);
        let across = divisor(cores, NORM_CORES_ACROSS);
        let grid = [across, cores / across];
        return Some(Memory::Columns(Shards { grid, rows, width: width / cores, transposed: false }));
    }
    let [across, down] = card.grid;
    let (per_core_m, columns) = (m.div_ceil(down), divisor(n, across));
    let grid = [columns, m.div_ceil(per_core_m)];
    let shards = Shards { grid, rows: per_core_m * TILE, width: width / columns, transposed: false };
    let bytes = DataType::Bfloat16.bytes(shards.rows * shards.width);
    (bytes <= card.l1_activation_bytes_per_core && shards.cores() > m).then_some(Memory::Blocks(shards))
}

/// For `ttnn.experimental.minimal_matmul_split` in two: `n` are the columns of one result.
pub(super) fn minimal(Tiles { m, k, n }: Tiles, card: &Card) -> MinimalSpread {
    let [across, down] = card.grid;
    let rows = m.clamp(2, down);
    let m_block = divisor(m.div_ceil(rows), SUMS).max(1);
    // The rows are sent anew for each block. The least work for the busiest core, then the largest block; none may be part of two results.
    let busiest = |block: &usize| (2 * n / block).div_ceil(across) * block;
    let blocks = |least| (least..=COLUMNS).rev().filter(|block| n.is_multiple_of(*block));
    let n_block = blocks(COLUMNS / 2).min_by_key(busiest).or_else(|| blocks(1).next()).unwrap_or(1);
    let subblock_w = divisor(n_block, SUMS);
    MinimalSpread {
        grid: [across, rows],
        m_block,
        k_block: divisor(k, DEPTH),
        n_block,
        subblock_h: divisor(m_block, SUMS / subblock_w),
        subblock_w,
    }
}

/// The largest divisor of `of` that is at most `limit`.
fn divisor(of: usize, limit: usize) -> usize {
    (1..=limit.max(1)).rev().find(|candidate| of.is_multiple_of(*candidate)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_spread_by_columns_and_many_by_blocks() {
        let few = linear(Tiles { m: 2, k: 32, n: 80 }, [Memory::L1, Memory::L1], &Card::P150, None);
        assert!(few.columns_only);
        assert_eq!((few.grid, few.per_core_m, few.per_core_n, few.in0_block_w), ([13, 7], 2, 1, 16));
        let beside = stream(64, 1024, &Card::P150).unwrap();
        assert_eq!(beside, Memory::Columns(Shards { grid: [8, 4], rows: 64, width: 32, transposed: false }));
        let to = linear(Tiles { m: 2, k: 80, n: 32 }, [Memory::L1, beside], &Card::P150, None);
        assert_eq!((to.grid, to.per_core_n, to.in0_block_w), ([8, 4], 1, 16));
        // Five tiles beside each core are no whole row of four sums.
        let odd = stream(64, 5 * 32 * 32, &Card::P150).unwrap();
        let to = linear(Tiles { m: 2, k: 32, n: 160 }, [Memory::L1, odd], &Card::P150, None);
        assert_eq!((to.per_core_n, to.out_subblock_w, to.out_subblock_h), (5, 1, 1));
        let many = linear(Tiles { m: 26, k: 64, n: 80 }, [Memory::Dram, Memory::L1], &Card::P150, None);
        assert!(!many.columns_only);
        // 26 tiles of rows are two for each of 13 columns of cores; for each of ten rows of them, three.
        assert_eq!((many.transposed, many.grid, many.per_core_m, many.per_core_n), (true, [13, 10], 2, 8));
        let blocks = stream(832, 2048, &Card::P150).unwrap();
        assert_eq!(blocks, Memory::Blocks(Shards { grid: [8, 9], rows: 96, width: 256, transposed: false }));
        let shared = linear(Tiles { m: 26, k: 64, n: 80 }, [blocks, Memory::L1], &Card::P150, None);
        assert_eq!((shared.grid, shared.per_core_m, shared.in0_block_w), ([13, 9], 3, 8));
        // No room beside an N150's cores, and nothing to share out in a single column.
        assert_eq!(stream(832, 2048, &Card::N150), None);
        assert_eq!(stream(832, 32, &Card::P150), None);
        // Sums fit where a core has room for them.
        assert_eq!((many.out_subblock_h, many.out_subblock_w), (1, 4));
        assert_eq!((shared.out_subblock_h, shared.out_subblock_w), (3, 1));
    }

    #[test]
    fn blocks_divide_what_they_are_blocks_of() {
        let halves = minimal(Tiles { m: 26, k: 64, n: 512 }, &Card::P150);
        assert_eq!((halves.grid, 512 % halves.n_block, halves.k_block), ([13, 10], 0, 8));
        assert_eq!(halves.m_block % halves.subblock_h + halves.n_block % halves.subblock_w, 0);
        assert_eq!(halves.n_block, 8);
        assert_eq!(minimal(Tiles { m: 26, k: 32, n: 7 }, &Card::P150).n_block, 7);
        assert!(halves.subblock_h * halves.subblock_w <= SUMS);
    }
}
