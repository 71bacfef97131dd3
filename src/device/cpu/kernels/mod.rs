//! The CPU's kernels: one file per family, each written once and compiled for every instruction set.
//! `compile` makes them, `program` runs them.

pub(super) mod attention;
pub(super) mod elementwise;
pub(super) mod embedding;
pub(super) mod linear;
mod math;
pub(super) mod norm;
pub(super) mod positions;
pub(super) mod rotary;
pub(super) mod shape;
mod tile;

use std::fmt;
use std::ops::Range;

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of this architecture has.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Isa {
    /// Those this machine can run, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            sets.push(Isa::Avx2);
        }
        sets
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
        })
    }
}

/// What differs between instruction sets in the source; the compiler's vectoriser does the rest.
pub(super) trait Arithmetic {
    /// `a * b + c`, rounded once where the CPU can do that in one instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// Multiply, round, add, round.
struct Separate;

impl Arithmetic for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Fused multiply-add.
struct Fused;

impl Arithmetic for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// One operation on buffers that never move, split into tasks that may run at the same time.
pub(super) trait Kernel: Send + Sync {
    fn tasks(&self) -> usize;

    /// Words of working memory that a task needs.
    fn scratch(&self) -> usize {
        0
    }

    /// # Safety
    /// The kernel's buffers must be alive and touched by nobody but this kernel's other tasks; `task` is below
    /// [`Self::tasks`] and runs once; `scratch` has [`Self::scratch`] words that nobody else uses meanwhile.
    ///
    /// Implementations are `#[inline(always)]`, so that they are compiled with the features of their caller.
    unsafe fn run<A: Arithmetic>(&self, task: usize, scratch: *mut f32);
}

/// A kernel compiled for the instruction set of this machine.
pub(super) trait Step: Send + Sync {
    fn tasks(&self) -> usize;
    fn scratch(&self) -> usize;
    /// # Safety
    /// As [`Kernel::run`].
    unsafe fn run(&self, task: usize, scratch: *mut f32);
}

struct Compiled<K> {
    kernel: K,
    isa: Isa,
}

/// Chooses the code of `isa`, which this machine must have.
pub(super) fn compiled<K: Kernel + 'static>(kernel: K, isa: Isa) -> Box<dyn Step> {
    Box::new(Compiled { kernel, isa })
}

impl<K: Kernel> Step for Compiled<K> {
    fn tasks(&self) -> usize {
        self.kernel.tasks()
    }

    fn scratch(&self) -> usize {
        self.kernel.scratch()
    }

    unsafe fn run(&self, task: usize, scratch: *mut f32) {
        match self.isa {
            // SAFETY: promised by the caller.
            Isa::Portable => unsafe { self.kernel.run::<Separate>(task, scratch) },
            // SAFETY: promised by the caller, and the CPU has the features: that is what `isa` says.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { run_avx2(&self.kernel, task, scratch) },
        }
    }
}

/// # Safety
/// As [`Kernel::run`], on a CPU with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: &K, task: usize, scratch: *mut f32) {
    // SAFETY: promised by the caller.
    unsafe { kernel.run::<Fused>(task, scratch) }
}

/// Elements below which another task costs more than it saves.
const TASK_ELEMENTS: usize = 8192;

/// Into how many tasks to split `rows` rows of `cols` elements for `threads` threads: more than threads, so that a
/// thread that starts late or is interrupted leaves its share to the others.
fn row_tasks(rows: usize, cols: usize, threads: usize) -> usize {
    (rows * cols / TASK_ELEMENTS).clamp(1, (2 * threads).min(rows))
}

/// The part of `0..total` that falls to `task` of `tasks`; parts differ by at most one.
#[inline(always)]
fn share(total: usize, tasks: usize, task: usize) -> Range<usize> {
    total * task / tasks..total * (task + 1) / tasks
}

#[cfg(test)]
pub(super) mod testing {
    //! Runs kernels on every instruction set of this machine, and compares with plain f64 formulas.

    use super::super::memory::{Matrix, Words};
    use super::*;

    /// A matrix with memory of its own.
    pub struct Owned {
        words: Words,
        pub rows: usize,
        pub cols: usize,
    }

    impl Owned {
        pub fn zeros(rows: usize, cols: usize) -> Self {
            Self {
                words: Words::new(rows * cols),
                rows,
                cols,
            }
        }

        /// Values between -1 and 1 that differ with `seed`.
        pub fn random(rows: usize, cols: usize, seed: u32) -> Self {
            let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
            Self::filled(rows, cols, |_, _| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
        }

        pub fn filled(rows: usize, cols: usize, mut value: impl FnMut(usize, usize) -> f32) -> Self {
            let mut owned = Self::zeros(rows, cols);
            for (index, word) in owned.words.as_mut_slice().iter_mut().enumerate() {
                *word = value(index / cols, index % cols);
            }
            owned
        }

        pub fn integers(values: &[i32]) -> Self {
            Self::filled(1, values.len(), |_, col| f32::from_bits(values[col] as u32))
        }

        pub fn matrix(&self) -> Matrix {
            Matrix {
                data: self.words.as_ptr(),
                rows: self.rows,
                cols: self.cols,
                stride: self.cols,
            }
        }

        pub fn at(&self, row: usize, col: usize) -> f64 {
            f64::from(self.words.as_slice()[row * self.cols + col])
        }

        pub fn values(&self) -> &[f32] {
            self.words.as_slice()
        }
    }

    /// Runs all tasks, last first: no task may depend on another.
    pub fn run<K: Kernel + 'static>(kernel: K, isa: Isa) {
        let step = compiled(kernel, isa);
        let scratch = Words::new(step.scratch());
        for task in (0..step.tasks()).rev() {
            // SAFETY: the tests keep the matrices alive and run one task at a time.
            unsafe { step.run(task, scratch.as_ptr()) }
        }
    }

    /// Every element within `tolerance` of the formula, relative to 1 + its size.
    pub fn assert_close(what: &str, found: &Owned, tolerance: f64, expected: impl Fn(usize, usize) -> f64) {
        for row in 0..found.rows {
            for col in 0..found.cols {
                let (x, y) = (found.at(row, col), expected(row, col));
                assert!(
                    (x - y).abs() <= tolerance * (1.0 + y.abs()),
                    "{what} [{row}, {col}]: {x}, expected {y}"
                );
            }
        }
    }
}
