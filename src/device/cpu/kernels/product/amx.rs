//! The tile on AMX: up to 32 rows of 32 columns as four of the CPU's tile registers, bf16 factors, f32 sums; denormals are taken and
//! given as zero. A step multiplies 16 words of depth: 1024 sums of 32 products each, in 64 cycles. f32 factors go through AVX-512.
//!
//! The registers are tmm0 to tmm3 for the sums (rows 0 to 15 and columns 0 to 15, columns 16 to 31, then rows 16 to 31), tmm4 and
//! tmm5 for rows, tmm6 and tmm7 for columns. Rust has no AMX outside its nightly versions, so it is written in assembly; its code
//! never touches these registers itself, and a thread's stay as they are between calls.

use std::arch::asm;
use std::cell::Cell;
use std::mem::MaybeUninit;

use super::{Factors, Form, MOST_ROWS, PANEL, Sums, avx512};

/// Words of depth of a step.
const STEP: usize = 16;
/// Rows of a register.
const HALF: usize = 16;
/// Bytes from a word of a panel, and from a row of sums, to the next.
const PANEL_BYTES: usize = 4 * PANEL;

/// Whether this CPU and its system have AMX with bf16; asks the system to let this process use it.
pub(crate) fn is_available() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    /// `arch_prctl`'s request for a part of the state of a thread, and AMX's part.
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    let features = __cpuid_count(7, 0).edx;
    if features & AMX_BF16 == 0 || features & AMX_TILE == 0 || !cfg!(target_os = "linux") {
        return false;
    }
    // SAFETY: a request that changes nothing but what this process may do.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// What the registers hold: `ldtilecfg`'s operand.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_per_row: [u16; 16],
    rows: [u8; 16],
}

thread_local! {
    /// Whether this thread's registers have their shape.
    static SHAPED: Cell<bool> = const { Cell::new(false) };
}

/// Gives this thread's registers their shape, once: it takes as long as ten steps. They have 16 rows whatever a tile has.
fn shape() {
    if SHAPED.replace(true) {
        return;
    }
    let mut shape =
        Shape { palette: 1, start_row: 0, reserved: [0; 14], bytes_per_row: [0; 16], rows: [0; 16] };
    shape.bytes_per_row[..8].fill(4 * STEP as u16);
    shape.rows[..8].fill(HALF as u8);
    // SAFETY: the operand is what the instruction reads; the CPU has it, because these kernels were chosen.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shape, options(nostack, readonly)) }
}

/// [`super::multiply`] for up to 32 rows of bf16, or 14 of f32.
///
/// # Safety
/// As [`super::multiply`], on a CPU with AVX-512F, AVX-512 BF16 and AMX ([`is_available`]); rows of bf16 lie whole, and there is room
/// to read up to 15 more behind them ([`super::PackedRows::room`]).
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) unsafe fn multiply(factors: Factors, sums: &mut Sums) {
    // SAFETY: promised by the caller.
    unsafe {
        match factors.form {
            Form::F32 | Form::Widened => avx512::multiply(factors, sums),
            Form::Bf16 => tiles(factors, sums),
        }
    }
}

/// # Safety
/// As [`multiply`].
#[inline]
unsafe fn tiles(factors: Factors, sums: &mut Sums) {
    let Factors { rows, left, row_step, panel, words, fresh, ahead, .. } = factors;
    debug_assert!(rows <= MOST_ROWS && sums.len() >= rows);
    let both = rows > HALF;
    shape();
    // The registers' other rows are of what lies behind the tile's, and go nowhere.
    let mut aside = MaybeUninit::<[[f32; PANEL]; MOST_ROWS]>::uninit();
    let is_full = rows.is_multiple_of(HALF);
    // SAFETY: promised by the caller: rows and panel have these words, the sums these rows, and behind the rows there is room to
    // read. Registers are clobbered that Rust does not use.
    unsafe {
        let of_sums = sums.as_mut_ptr().cast::<f32>();
        let first = if is_full { of_sums } else { aside.as_mut_ptr().cast() };
        if !is_full && !fresh {
            first.copy_from_nonoverlapping(of_sums, rows * PANEL);
        }
        let second = first.wrapping_add(HALF * PANEL);
        if fresh {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nomem, nostack));
        } else {
            asm!(
                "tileloadd tmm0, [{sums} + {step}]",
                "tileloadd tmm1, [{sums} + {step} + 64]",
                sums = in(reg) first, step = in(reg) PANEL_BYTES, options(nostack, readonly)
            );
            if both {
                asm!(
                    "tileloadd tmm2, [{sums} + {step}]",
                    "tileloadd tmm3, [{sums} + {step} + 64]",
                    sums = in(reg) second, step = in(reg) PANEL_BYTES, options(nostack, readonly)
                );
            }
        }
        let steps = words / STEP;
        if steps > 0 {
            go(steps, left, row_step, panel, ahead, both);
        }
        let rest = words % STEP;
        if rest > 0 {
            // What is behind the last words belongs to somebody else, and may be anything.
            let mut row_words = [[0.0_f32; STEP]; MOST_ROWS];
            for (row, words) in row_words[..rows].iter_mut().enumerate() {
                let from = left.add(row * row_step + steps * STEP);
                words.as_mut_ptr().copy_from_nonoverlapping(from, rest);
            }
            let mut panel_words = [[0.0_f32; PANEL]; STEP];
            let from = panel.add(steps * STEP * PANEL);
            panel_words.as_mut_ptr().cast::<f32>().copy_from_nonoverlapping(from, rest * PANEL);
            let row_words = row_words.as_ptr().cast();
            go(1, row_words, STEP, panel_words.as_ptr().cast(), row_words, both);
        }
        asm!(
            "tilestored [{sums} + {step}], tmm0",
            "tilestored [{sums} + {step} + 64], tmm1",
            sums = in(reg) first, step = in(reg) PANEL_BYTES, options(nostack)
        );
        if both {
            asm!(
                "tilestored [{sums} + {step}], tmm2",
                "tilestored [{sums} + {step} + 64], tmm3",
                sums = in(reg) second, step = in(reg) PANEL_BYTES, options(nostack)
            );
        }
        if !is_full {
            of_sums.copy_from_nonoverlapping(first, rows * PANEL);
        }
    }
}

/// Adds `steps` times 16 words of depth to the sums, and brings as much as a panel has of `ahead` near.
///
/// # Safety
/// Rows, `row_step` words apart, and panel have these words; `steps` is at least 1; the registers are shaped.
#[inline(always)]
unsafe fn go(
    steps: usize,
    left: *const f32,
    row_step: usize,
    panel: *const f32,
    ahead: *const f32,
    both: bool,
) {
    // SAFETY: promised by the caller; a prefetch reads nothing. Registers are clobbered that Rust does not use.
    unsafe {
        if both {
            asm!(
                "2:",
                "tileloadd tmm6, [{panel} + {panel_step}]",
                "tileloadd tmm4, [{left} + {row_step}]",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {panel_step} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{second} + {row_step}]",
                "prefetcht1 [{ahead} + 256]",
                "prefetcht1 [{ahead} + 320]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "prefetcht1 [{ahead} + 384]",
                "prefetcht1 [{ahead} + 448]",
                "add {left}, 64",
                "add {second}, 64",
                "add {panel}, 2048",
                "add {ahead}, 512",
                "dec {steps}",
                "jnz 2b",
                left = inout(reg) left => _,
                second = inout(reg) left.wrapping_add(HALF * row_step) => _,
                row_step = in(reg) 4 * row_step,
                panel = inout(reg) panel => _,
                panel_step = in(reg) PANEL_BYTES,
                ahead = inout(reg) ahead => _,
                steps = inout(reg) steps => _,
                options(nostack, readonly)
            );
        } else {
            asm!(
                "2:",
                "tileloadd tmm6, [{panel} + {panel_step}]",
                "tileloadd tmm4, [{left} + {row_step}]",
                "prefetcht1 [{ahead}]",
                "prefetcht1 [{ahead} + 64]",
                "prefetcht1 [{ahead} + 128]",
                "prefetcht1 [{ahead} + 192]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{panel} + {panel_step} + 64]",
                "prefetcht1 [{ahead} + 256]",
                "prefetcht1 [{ahead} + 320]",
                "prefetcht1 [{ahead} + 384]",
                "prefetcht1 [{ahead} + 448]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {left}, 64",
                "add {panel}, 2048",
                "add {ahead}, 512",
                "dec {steps}",
                "jnz 2b",
                left = inout(reg) left => _,
                row_step = in(reg) 4 * row_step,
                panel = inout(reg) panel => _,
                panel_step = in(reg) PANEL_BYTES,
                ahead = inout(reg) ahead => _,
                steps = inout(reg) steps => _,
                options(nostack, readonly)
            );
        }
    }
}
