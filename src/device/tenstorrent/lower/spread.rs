//! How products are spread over the cores of a card. Called by `products`.
//!
//! Few rows: every core takes all of them and its share of the columns, so that each weight is read by one core. Many rows:
//! blocks of rows and columns, one per core. The library's own choice (`core_grid` alone) takes 1.3 to 4 times as long for
//! such shapes; docs/tenstorrent.md has the measurements that say so.

use super::super::TILE;
use super::super::card::Card;
use super::super::program::{MatmulSpread, Memory, MinimalSpread};

/// Most rows, in tiles, of which a core takes all.
pub(super) const FEW: usize = 4;
/// Tiles that a core can sum at once in f32.
const SUMS: usize = 4;
/// Cores that share a norm of few rows: every card has so many in a row.
const NORM_CORES: usize = 8;
/// Tiles of depth that a core takes at a time.
const DEPTH: usize = 8;

/// A product of `[m, k]` and `[k, n]` tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tiles {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// For `ttnn.linear` with a left side that lies in `left`.
pub(super) fn linear(
    tiles: Tiles,
    left: Memory,
    card: &Card,
    activation: Option<&'static str>,
) -> MatmulSpread {
    let Tiles { m, k, n } = tiles;
    // Nothing is cut that lies beside one core.
    let whole = match left {
        Memory::Columns { width, .. } => width / TILE,
        Memory::Dram | Memory::L1 => k,
    };
    let [across, down] = card.grid;
    let columns_only = m <= FEW;
    let (grid, per_core_m, per_core_n) = if columns_only {
        let per_core = n.div_ceil(across * down);
        // Those beside which the left side lies send it, and are among them.
        let cores = match left {
            Memory::Columns { .. } => across * down,
            Memory::Dram | Memory::L1 => n.div_ceil(per_core),
        };
        ([across.min(cores), cores.div_ceil(across)], m, per_core)
    } else {
        let (per_core_m, per_core_n) = (m.div_ceil(down), n.div_ceil(across));
        ([n.div_ceil(per_core_n), m.div_ceil(per_core_m)], per_core_m, per_core_n)
    };
    let out_subblock_w = divisor(per_core_n, SUMS);
    let out_subblock_h = divisor(per_core_m, SUMS / out_subblock_w);
    MatmulSpread {
        columns_only,
        grid,
        in0_block_w: divisor(whole, DEPTH),
        out_subblock_h,
        out_subblock_w,
        per_core_m,
        per_core_n,
        activation,
    }
}

/// Where the rows of a stream of residuals lie, if they are few: beside a row of cores, of which each has some columns.
pub(super) fn columns(rows: usize, width: usize) -> Option<Memory> {
    let (m, n) = (rows.div_ceil(TILE), width / TILE);
    let fits = m <= FEW && rows.is_multiple_of(TILE) && width.is_multiple_of(TILE);
    fits.then(|| {
        let cores = divisor(n, NORM_CORES);
        Memory::Columns { cores, rows, width: width / cores }
    })
}

/// For `ttnn.experimental.minimal_matmul`: `k` are the depths of its factors side by side, `n` the columns of one result.
pub(super) fn minimal(m: usize, k: &[usize], n: usize, results: usize, card: &Card) -> MinimalSpread {
    let [across, down] = card.grid;
    let rows = m.clamp(2, down);
    let m_block = divisor(m.div_ceil(rows), SUMS).max(1);
    let n_block = match results {
        1 => (n.div_ceil(across)).clamp(1, DEPTH),
        // No block may be part of two results.
        _ => divisor(n, DEPTH),
    };
    let subblock_w = divisor(n_block, SUMS);
    MinimalSpread {
        grid: [across, rows],
        m_block,
        k_block: (1..=DEPTH).rev().find(|block| k.iter().all(|depth| depth % block == 0)).unwrap_or(1),
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
        let few = linear(Tiles { m: 2, k: 32, n: 80 }, Memory::L1, &Card::P150, None);
        assert!(few.columns_only);
        let beside = columns(64, 1024).unwrap();
        assert_eq!(beside, Memory::Columns { cores: 8, rows: 64, width: 128 });
        assert_eq!(linear(Tiles { m: 2, k: 32, n: 80 }, beside, &Card::P150, None).in0_block_w, 4);
        assert_eq!((few.grid, few.per_core_m, few.per_core_n, few.in0_block_w), ([13, 7], 2, 1, 8));
        let many = linear(Tiles { m: 26, k: 64, n: 80 }, Memory::Dram, &Card::P150, None);
        assert!(!many.columns_only);
        assert_eq!((many.grid, many.per_core_m, many.per_core_n), ([12, 9], 3, 7));
        // Sums fit where a core has room for them.
        assert_eq!((many.out_subblock_h, many.out_subblock_w), (3, 1));
    }

    #[test]
    fn blocks_divide_what_they_are_blocks_of() {
        let joined = minimal(2, &[80, 32], 32, 1, &Card::P150);
        assert_eq!((joined.grid, joined.m_block, joined.k_block, joined.n_block), ([13, 2], 1, 8, 3));
        let halves = minimal(26, &[64], 512, 2, &Card::P150);
        assert_eq!(512 % halves.n_block, 0);
        assert_eq!(halves.m_block % halves.subblock_h + halves.n_block % halves.subblock_w, 0);
        assert!(halves.subblock_h * halves.subblock_w <= SUMS);
    }
}
