//! The CPU's kernels: one file per family, each written once and compiled for every instruction set.
//! `compile` makes them, `program` runs them.

pub(super) mod attention;
mod blocked;
pub(super) mod constant;
pub(super) mod elementwise;
pub(super) mod embedding;
pub(super) mod guide;
pub(super) mod heads;
mod isa;
pub(super) mod linear;
mod math;
pub(super) mod norm;
pub(super) mod positions;
pub(super) mod product;
pub(super) mod rotary;
pub(super) mod shape;

use std::ops::Range;

pub use self::isa::Isa;
use self::product::{Factors, Sums, lanes};

/// What differs between instruction sets in the source; the compiler's vectoriser does the rest.
pub(super) trait Arithmetic {
    /// `a * b + c`, rounded once where the CPU can do that in one instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;

    /// # Safety
    /// As [`product::multiply`], on a CPU that has the instructions.
    unsafe fn multiply(factors: Factors, sums: &mut Sums);

    /// # Safety
    /// As [`product::interleave`], on a CPU that has the instructions.
    #[inline(always)]
    unsafe fn interleave(rows: usize, cols: usize, from: *const f32, stride: usize, to: *mut f32) {
        // SAFETY: promised by the caller.
        unsafe { lanes::interleave(rows, cols, from, stride, to) }
    }
}

/// What every CPU of this architecture has.
struct Portable;

impl Arithmetic for Portable {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        // Every 64-bit ARM has the fused instruction; on x86-64 without FMA it would be a call.
        if cfg!(target_arch = "aarch64") { a.mul_add(b, c) } else { a * b + c }
    }

    unsafe fn multiply(factors: Factors, sums: &mut Sums) {
        // SAFETY: promised by the caller.
        unsafe { lanes::multiply::<Self>(factors, sums) }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The instruction sets of x86-64. `multiply` is a call into code compiled for them; all else is inlined into it.

    use super::product::{Factors, Sums, amx, avx2, avx512, lanes};
    use super::{Arithmetic, Kernel};

    macro_rules! arithmetic {
        ($name:ident, $run:ident, $multiply:path, $interleave:path, $features:literal) => {
            pub struct $name;

            impl Arithmetic for $name {
                #[inline(always)]
                fn mul_add(a: f32, b: f32, c: f32) -> f32 {
                    a.mul_add(b, c)
                }

                #[inline(always)]
                unsafe fn multiply(factors: Factors, sums: &mut Sums) {
                    // SAFETY: promised by the caller.
                    unsafe { $multiply(factors, sums) }
                }

                #[inline(always)]
                unsafe fn interleave(
                    rows: usize,
                    cols: usize,
                    from: *const f32,
                    stride: usize,
                    to: *mut f32,
                ) {
                    // SAFETY: promised by the caller.
                    unsafe { $interleave(rows, cols, from, stride, to) }
                }
            }

            /// # Safety
            /// As [`Kernel::run`], on a CPU with these features.
            #[target_feature(enable = $features)]
            pub unsafe fn $run<K: Kernel>(kernel: &K, task: usize, scratch: *mut f32) {
                // SAFETY: promised by the caller.
                unsafe { kernel.run::<$name>(task, scratch) }
            }
        };
    }

    arithmetic!(Avx2, run_avx2, avx2::multiply, avx2::interleave, "avx2,fma");
    arithmetic!(
        Avx512,
        run_avx512,
        avx512::multiply,
        avx512::interleave,
        "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
    );
    arithmetic!(
        Avx512Bf16,
        run_avx512_bf16,
        avx512::multiply_bf16,
        avx512::interleave,
        "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
    );
    arithmetic!(
        Amx,
        run_amx,
        amx::multiply,
        lanes::interleave,
        "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"
    );
}

/// Elements that the compiler works on at once in plain loops: one AVX-512 register, two of AVX2.
const LANES: usize = 16;

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
    /// The kernel's name.
    fn name(&self) -> &'static str;
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
    fn name(&self) -> &'static str {
        let path = std::any::type_name::<K>();
        path.rsplit("::").next().unwrap_or(path)
    }

    fn tasks(&self) -> usize {
        self.kernel.tasks()
    }

    fn scratch(&self) -> usize {
        self.kernel.scratch()
    }

    unsafe fn run(&self, task: usize, scratch: *mut f32) {
        match self.isa {
            // SAFETY: promised by the caller.
            Isa::Portable => unsafe { self.kernel.run::<Portable>(task, scratch) },
            // SAFETY: promised by the caller, and the CPU has the features: that is what `isa` says.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { x86::run_avx2(&self.kernel, task, scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { x86::run_avx512(&self.kernel, task, scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => unsafe { x86::run_avx512_bf16(&self.kernel, task, scratch) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => unsafe { x86::run_amx(&self.kernel, task, scratch) },
        }
    }
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
pub(super) fn share(total: usize, tasks: usize, task: usize) -> Range<usize> {
    total * task / tasks..total * (task + 1) / tasks
}

#[cfg(test)]
pub(super) mod testing {
    //! Runs kernels on every instruction set of this machine, and compares with plain f64 formulas.

    use super::super::memory::{Matrix, Words};
    use super::product::{Destination, PackedRows, Precision, RowBlocks, bf16_bits};
    use super::shape::Pack;
    use super::*;

    pub const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// A matrix with memory of its own.
    pub struct Owned {
        words: Words,
        pub rows: usize,
        pub cols: usize,
    }

    impl Owned {
        pub fn zeros(rows: usize, cols: usize) -> Self {
            Self { words: Words::new(rows * cols), rows, cols }
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

        /// The same values, rounded to what `precision` stores.
        pub fn rounded(&self, precision: Precision) -> Self {
            Self::filled(self.rows, self.cols, |row, col| {
                let value = self.words.as_slice()[row * self.cols + col];
                match precision {
                    Precision::F32 => value,
                    Precision::Bf16 => f32::from_bits(bf16_bits(value) << 16),
                }
            })
        }

        /// A destination that is these rows.
        pub fn destination(&self) -> Destination {
            Destination { rows: Some(self.matrix()), packed: None }
        }

        pub fn integers(values: &[i32]) -> Self {
            Self::filled(1, values.len(), |_, col| f32::from_bits(values[col] as u32))
        }

        pub fn matrix(&self) -> Matrix {
            Matrix { data: self.words.as_ptr(), rows: self.rows, cols: self.cols, stride: self.cols }
        }

        pub fn at(&self, row: usize, col: usize) -> f64 {
            f64::from(self.words.as_slice()[row * self.cols + col])
        }

        pub fn values(&self) -> &[f32] {
            self.words.as_slice()
        }
    }

    /// Packed rows with memory of their own.
    pub struct OwnedPacked {
        _words: Owned,
        count: usize,
        pub rows: PackedRows,
    }

    impl OwnedPacked {
        /// Room for `[rows, cols]`; NaN stands for what an earlier use of the memory left.
        pub fn empty(rows: usize, cols: usize, precision: Precision, isa: Isa) -> Self {
            let (words, whole) = (precision.words(cols), isa.whole_rows(precision));
            let memory = Owned::filled(1, PackedRows::room(rows, words, whole), |_, _| f32::NAN);
            let blocks = RowBlocks::new(rows, isa.tile_rows(precision));
            let count = rows;
            let rows = PackedRows { data: memory.matrix().data, blocks, words, precision, whole };
            Self { _words: memory, count, rows }
        }

        pub fn of(x: &Owned, precision: Precision, isa: Isa) -> Self {
            let packed = Self::empty(x.rows, x.cols, precision, isa);
            run(Pack { x: x.matrix(), to: packed.rows, threads: 2 }, isa);
            packed
        }

        /// What is packed, as rows.
        pub fn unpacked(&self, cols: usize) -> Owned {
            let PackedRows { blocks, precision, .. } = self.rows;
            Owned::filled(self.count, cols, |row, col| {
                let block = blocks.around(row);
                let (word, second) = match precision {
                    Precision::F32 => (col, false),
                    Precision::Bf16 => (col / 2, col % 2 == 1),
                };
                // SAFETY: the word lies within the block, and the memory is alive.
                let bits = unsafe { *self.rows.at_row(&block, row, word) }.to_bits();
                match precision {
                    Precision::F32 => f32::from_bits(bits),
                    Precision::Bf16 if second => f32::from_bits(bits & 0xffff_0000),
                    Precision::Bf16 => f32::from_bits(bits << 16),
                }
            })
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
