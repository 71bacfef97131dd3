//! Every family of tiles against plain f64 sums, on sizes that are multiples of nothing, and with special values.

use super::super::testing::{Owned, OwnedPacked, PRECISIONS, assert_close, run};
use super::super::{Isa, Kernel};
use super::*;
use crate::device::cpu::memory::{LargeMemory, Matrix};
use crate::device::cpu::weight::PackedWeight;

/// One tile of `x w^T`.
struct OneTile<'a> {
    x: PackedRows,
    weight: &'a PackedWeight,
    widened: *mut f32,
    out: Matrix,
}

// SAFETY: an address, used by the one task.
unsafe impl Send for OneTile<'_> {}
// SAFETY: as above.
unsafe impl Sync for OneTile<'_> {}

impl Kernel for OneTile<'_> {
    fn tasks(&self) -> usize {
        1
    }

    unsafe fn run<A: Arithmetic>(&self, _: usize, _: *mut f32) {
        let block = self.x.blocks.range(0);
        let mut tile = Tile::zero();
        let panels = self.weight.panels();
        let factors = Factors {
            form: Form::of(self.x.precision, self.weight.precision()),
            rows: block.len(),
            left: self.x.at(&block, 0),
            row_step: self.x.row_step(),
            panel: panels.at(0, 0),
            words: self.x.words,
            fresh: true,
            widened: self.widened,
            ahead: std::ptr::null(),
        };
        // SAFETY: the test keeps everything alive.
        unsafe {
            multiply::<A>(factors, &mut tile.0);
            Destination { rows: Some(self.out), packed: None }.store::<A>(&tile.0[..block.len()], &block, 0);
        }
    }
}

pub(in super::super) fn pack_weight(w: &Owned, precision: Precision) -> PackedWeight {
    let packed = PackedWeight::new(precision, w.cols, w.rows, &mut LargeMemory::default());
    for panel in 0..packed.panels().count() {
        // SAFETY: one panel at a time.
        unsafe {
            packed.fill_panel(panel, |output, column, values| {
                values.copy_from_slice(&w.values()[output * w.cols + column..][..values.len()]);
            });
        }
    }
    packed
}

/// The tile of `x w^T`; where its panel is widened, what that leaves is the panel.
fn tile(x: &Owned, w: &Owned, precision: Precision, isa: Isa) -> Owned {
    let packed = OwnedPacked::of(x, isa.rows(precision), isa);
    let weight = pack_weight(w, precision);
    // SAFETY: the kernels are run and dropped before the weight is.
    let weight: &'static PackedWeight = unsafe { &*std::ptr::from_ref(&weight) };
    let run_with = |widened: *mut f32| {
        let out = Owned::zeros(x.rows, w.rows);
        run(OneTile { x: packed.rows, weight, widened, out: out.matrix() }, isa);
        out
    };
    let out = run_with(std::ptr::null_mut());
    if Form::of(packed.rows.precision, precision) == Form::Widened {
        let widened = Owned::filled(x.cols, PANEL, |_, _| f32::NAN);
        let again = run_with(widened.matrix().data);
        let bits = |tile: &Owned| tile.values().iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&out), "{isa}");
        for (col, depth) in (0..w.rows).flat_map(|col| (0..w.cols).map(move |depth| (col, depth))) {
            let (found, expected) = (widened.at(depth, col), w.at(col, depth));
            assert!(found == expected || found.is_nan() && expected.is_nan(), "{isa} [{depth}, {col}]");
        }
    }
    out
}

#[test]
fn every_tile_is_its_sums() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for rows in 1..=isa.tile_rows(isa.rows(precision)) {
                for (depth, cols) in [(1, 1), (2, 32), (3, 7), (32, 32), (33, 31), (70, 32), (128, 17)] {
                    let x = Owned::random(rows, depth, 1).rounded(precision);
                    let w = Owned::random(cols, depth, 2).rounded(precision);
                    let what = format!("{isa} {precision} {rows}x{depth}x{cols}");
                    assert_close(&what, &tile(&x, &w, precision, isa), 1e-7 * (8 + depth) as f64, |r, c| {
                        (0..depth).map(|k| x.at(r, k) * w.at(c, k)).sum()
                    });
                }
            }
        }
    }
}

/// Infinity, NaN, overflow and sums of opposite infinities come out of every family as IEEE says.
#[test]
fn special_values_pass_through_every_family() {
    let (infinity, nan) = (f32::INFINITY, f32::NAN);
    let cases = [
        ([infinity, 1.0, 0.0], infinity),
        ([-infinity, 1.0, 0.0], -infinity),
        ([infinity, -infinity, 0.0], nan),
        ([nan, 1.0, 0.0], nan),
        ([1.0, 2.0, nan], nan),
        ([3e38, 3e38, 0.0], infinity),
        ([0.0, 0.0, 0.0], 0.0),
    ];
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for (values, expected) in cases {
                let x = Owned::filled(1, 3, |_, col| values[col]);
                let found = tile(&x, &Owned::filled(2, 3, |_, _| 1.0), precision, isa);
                for &found in found.values() {
                    let same = found == expected || (found.is_nan() && expected.is_nan());
                    assert!(same, "{isa} {precision} {values:?}: {found}, expected {expected}");
                }
            }
        }
    }
}

/// f32 keeps denormals. bf16 does too, but for the CPU's own instruction, which is defined to take and give them as zero.
#[test]
fn denormals_are_kept_or_zero_where_the_instruction_says_so() {
    let denormal = f32::from_bits(0x0040_0000);
    for isa in Isa::available() {
        for precision in PRECISIONS {
            let x = Owned::filled(1, 2, |_, col| if col == 0 { denormal } else { 0.0 });
            let found = tile(&x, &Owned::filled(1, 2, |_, _| 1.0), precision, isa).values()[0];
            let flushed = precision == Precision::Bf16 && isa.multiplies_bf16();
            assert_eq!(found, if flushed { 0.0 } else { denormal }, "{isa} {precision}");
        }
    }
}

#[test]
fn bf16_rounds_to_nearest_even_as_the_half_crate_does() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45];
    let patterns = (0..=u32::MAX).step_by(65_521).map(f32::from_bits);
    for x in special.into_iter().chain(patterns) {
        let (found, expected) = (bf16_bits(x), half::bf16::from_f32(x));
        if x.is_nan() {
            assert!(f32::from_bits(found << 16).is_nan());
        } else {
            assert_eq!(found, u32::from(expected.to_bits()), "{x:e}");
        }
    }
}

#[test]
fn every_row_is_in_the_block_around_it() {
    for rows in 1..100 {
        for most in [1, 6, 14, 32] {
            let blocks = RowBlocks::new(rows, most);
            for block in 0..blocks.count() {
                assert!((1..=most).contains(&blocks.range(block).len()));
                for row in blocks.range(block) {
                    assert_eq!(blocks.around(row), blocks.range(block));
                }
            }
        }
    }
}

#[test]
fn packed_rows_hold_the_rows() {
    for isa in Isa::available() {
        for precision in PRECISIONS {
            for (rows, cols) in [(1, 1), (5, 31), (13, 7), (14, 33), (29, 64), (28, 163)] {
                let x = Owned::random(rows, cols, 5).rounded(precision);
                let packed = OwnedPacked::of(&x, precision, isa);
                assert_close("packed", &packed.unpacked(cols), 0.0, |r, c| x.at(r, c));
            }
        }
    }
}

/// Interleaves some rows.
struct Interleave<'a> {
    from: &'a Owned,
    cols: usize,
    to: Matrix,
}

impl Kernel for Interleave<'_> {
    fn tasks(&self) -> usize {
        1
    }

    unsafe fn run<A: Arithmetic>(&self, _: usize, _: *mut f32) {
        let Self { from, cols, to } = self;
        // SAFETY: the test keeps both alive.
        unsafe { interleave::<A>(from.rows, *cols, from.matrix().data, from.cols, to.data) }
    }
}

#[test]
fn interleaved_rows_are_columns_and_nothing_behind_them_is_touched() {
    const BEHIND: usize = 40;
    for isa in Isa::available() {
        for rows in 1..=isa.tile_rows(Precision::F32) {
            for cols in [1, 2, 15, 16, 17, 33] {
                // Some more lie behind each row, too.
                let from = Owned::random(rows, cols + 3, 4);
                let to = Owned::filled(1, rows * cols + BEHIND, |_, _| 7.0);
                // SAFETY: the kernel is run and dropped before the rows are.
                let kept: &'static Owned = unsafe { &*std::ptr::from_ref(&from) };
                run(Interleave { from: kept, cols, to: to.matrix() }, isa);
                let (found, behind) = to.values().split_at(rows * cols);
                for (index, value) in found.iter().enumerate() {
                    assert_eq!(
                        f64::from(*value),
                        from.at(index % rows, index / rows),
                        "{isa} {rows} x {cols}"
                    );
                }
                assert!(behind.iter().all(|value| *value == 7.0), "{isa} {rows} x {cols}");
            }
        }
    }
}
