//! The instruction sets that kernels are compiled for: which this machine has, which of them is the fastest, and how each likes its
//! factors. Asked when a device is opened and when it compiles.

// Elsewhere there is one set, which nothing has to be asked for.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused_imports, unused_mut, unused_variables))]

use std::fmt;

use super::product::{self, Form, Precision, lanes};

/// The instruction sets that kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// What every CPU of this architecture has: SSE2 or NEON.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with products of bf16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The same with tiles that are multiplied at once (AMX).
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Isa {
    /// The one with which this machine is fastest.
    pub(in super::super) fn fastest() -> Self {
        let mut sets = Self::available();
        // Intel's CPUs take four cycles for two of these products of bf16, in which they do four of f32: 153 GFLOP/s beside 329 on
        // two cores (docs/performance.md). AMD's do as many of either.
        #[cfg(target_arch = "x86_64")]
        if sets.last() == Some(&Isa::Avx512Bf16) && is_intel() {
            sets.pop();
        }
        sets.pop().unwrap_or(Isa::Portable)
    }

    /// Those this machine can run, each with more instructions than the one before.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Isa::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            let bf16 = avx2 && avx512 && is_x86_feature_detected!("avx512bf16");
            let each = [
                (Isa::Avx2, avx2),
                (Isa::Avx512, avx2 && avx512),
                (Isa::Avx512Bf16, bf16),
                (Isa::Amx, bf16 && product::amx::is_available()),
            ];
            sets.extend(each.into_iter().filter_map(|(isa, there)| there.then_some(isa)));
        }
        sets
    }

    /// Rows of the largest tile of rows that are stored so.
    pub(in super::super) fn tile_rows(self, rows: Precision) -> usize {
        match self {
            Isa::Portable => lanes::ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => product::avx2::ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Amx if rows == Precision::Bf16 => product::MOST_ROWS,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => product::avx512::ROWS,
        }
    }

    /// Whether tiles take rows that are stored so whole, one after another.
    pub(in super::super) fn whole_rows(self, rows: Precision) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => rows == Precision::Bf16,
            _ => false,
        }
    }

    /// Whether products of bf16 are an instruction, and so twice as fast as those of f32.
    pub fn multiplies_bf16(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 | Isa::Amx => true,
            _ => false,
        }
    }

    /// How weights are best stored: as bf16, which takes half the memory and is at least as fast as f32, but for CPUs so old
    /// that widening costs time.
    pub(in super::super) fn preferred(self) -> Precision {
        match self {
            Isa::Portable if cfg!(target_arch = "x86_64") => Precision::F32,
            _ => Precision::Bf16,
        }
    }

    /// How rows are stored that are multiplied with weights of this precision.
    pub(in super::super) fn rows(self, weights: Precision) -> Precision {
        if self.multiplies_bf16() { weights } else { Precision::F32 }
    }

    /// Words of depth that a panel is gone through at a time: as many as stay in the second-level cache while all rows are
    /// multiplied with them. With AVX-512's larger tiles and caches it was faster not to divide (docs/performance.md).
    pub(super) fn depth(self, form: Form) -> usize {
        match (self, form) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Amx, Form::Bf16) => 1024,
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx, Form::F32 | Form::Bf16) => usize::MAX,
            _ => 512,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let std::arch::x86_64::CpuidResult { ebx, ecx, edx, .. } = std::arch::x86_64::__cpuid(0);
    [ebx, edx, ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => "amx",
        })
    }
}
