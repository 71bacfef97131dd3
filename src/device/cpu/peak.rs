//! What this machine can do at most with the device's own tiles and threads: products of what lies in the first-level
//! cache, and reading of what lies in none. Called by the device for benchmarks, which set their figures beside it.

use std::time::Instant;

use super::kernels::product::{Factors, Form, PANEL, Precision, Tile, multiply};
use super::kernels::{Arithmetic, Isa, Kernel, compiled};
use super::memory::Words;
use super::pool::Pool;
use crate::device::Peak;

/// Times that each measurement is repeated; the best counts.
const REPEATS: usize = 7;
/// Words of depth of the tiles: 14 rows and a panel take 24 KB.
const TILE_WORDS: usize = 128;
const TILES: usize = 2000;
/// 512 MB: far more than any cache.
const MEMORY_WORDS: usize = 128 << 20;

/// Tiles over the same factors again and again, one series per thread.
struct Tiles {
    rows: usize,
    precision: Precision,
    factors: Words,
    threads: usize,
}

impl Kernel for Tiles {
    fn tasks(&self) -> usize {
        self.threads
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, _: usize, _: *mut f32) {
        let mut tile = Tile::zero();
        let left = self.factors.as_ptr().cast_const();
        let factors = Factors {
            form: Form::of(self.precision, self.precision),
            rows: self.rows,
            left,
            row_step: TILE_WORDS,
            panel: left.wrapping_add(self.rows * TILE_WORDS),
            words: TILE_WORDS,
            fresh: true,
            widened: std::ptr::null_mut(),
            ahead: left,
        };
        for _ in 0..TILES {
            // SAFETY: the factors have room for the rows and a panel.
            unsafe { multiply::<A>(factors, &mut tile.0) }
            std::hint::black_box(&mut tile);
        }
    }
}

/// Reads memory, a part per thread.
struct Read {
    words: Words,
    threads: usize,
}

impl Kernel for Read {
    fn tasks(&self) -> usize {
        self.threads
    }

    #[inline(always)]
    unsafe fn run<A: Arithmetic>(&self, task: usize, _: *mut f32) {
        let part = super::kernels::share(self.words.len(), self.threads, task);
        // SAFETY: the part lies within the words, which nobody writes.
        let words = unsafe { std::slice::from_raw_parts(self.words.as_ptr().add(part.start), part.len()) };
        let mut sums = [0u32; 64];
        for chunk in words.as_chunks::<64>().0 {
            for (sum, word) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(word.to_bits());
            }
        }
        std::hint::black_box(sums);
    }
}

/// `precision` is that of the weights; what is multiplied are numbers as this CPU multiplies them.
pub(super) fn measure(pool: &mut Pool, isa: Isa, precision: Precision) -> Peak {
    let precision = isa.rows(precision);
    let (threads, rows) = (pool.threads(), isa.tile_rows(precision));
    let factors = Words::new((rows + PANEL) * TILE_WORDS);
    let seconds = best(pool, isa, Tiles { rows, precision, factors, threads });
    let depth = TILE_WORDS * if precision == Precision::Bf16 { 2 } else { 1 };
    let flops = (2 * threads * TILES * rows * PANEL * depth) as f64 / seconds;

    let words = Words::new(MEMORY_WORDS);
    for page in (0..MEMORY_WORDS).step_by(1024) {
        // SAFETY: the page lies within the words. Written, so that it is memory of its own.
        unsafe { *words.as_ptr().add(page) = 1.0 }
    }
    let seconds = best(pool, isa, Read { words, threads });
    Peak { flops, bytes: (4 * MEMORY_WORDS) as f64 / seconds }
}

/// Seconds of the fastest of several runs.
fn best<K: Kernel + 'static>(pool: &mut Pool, isa: Isa, kernel: K) -> f64 {
    let step = compiled(kernel, isa);
    let mut best = f64::INFINITY;
    for _ in 0..REPEATS {
        let start = Instant::now();
        // SAFETY: the kernel owns what it reads, and needs no scratch.
        pool.run(step.tasks(), &|task, _| unsafe { step.run(task, std::ptr::null_mut()) });
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}
