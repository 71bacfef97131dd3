//! Memory of the CPU device: aligned words, matrices inside them, and where each buffer of a program stands.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{Advice, MmapMut};

/// Alignment of every buffer: a cache line, and the widest vector register.
const ALIGN_BYTES: usize = 64;
pub(super) const ALIGN_WORDS: usize = ALIGN_BYTES / 4;

/// Zeroed 4-byte words at a fixed address. Integers and bools take a word each, as `i32` bits.
pub(super) struct Words {
    data: NonNull<f32>,
    len: usize,
    owner: Owner,
}

enum Owner {
    Heap,
    /// Part of a mapping that lives as long as any of its parts.
    Mapping {
        _whole: Arc<MmapMut>,
    },
}

// SAFETY: `Words` owns its memory like a `Vec<f32>` does.
unsafe impl Send for Words {}
// SAFETY: as above; shared access only reads the pointer and the length.
unsafe impl Sync for Words {}

impl Words {
    pub fn new(len: usize) -> Self {
        if len == 0 {
            return Self { data: NonNull::dangling(), len, owner: Owner::Heap };
        }
        // SAFETY: the layout has a size above zero.
        let data = unsafe { alloc_zeroed(Self::layout(len)) };
        match NonNull::new(data.cast()) {
            Some(data) => Self { data, len, owner: Owner::Heap },
            None => handle_alloc_error(Self::layout(len)),
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn as_ptr(&self) -> *mut f32 {
        self.data.as_ptr()
    }

    #[cfg(test)]
    pub fn as_slice(&self) -> &[f32] {
        // SAFETY: the words are initialised and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }

    #[cfg(test)]
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_ptr(), self.len) }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len)
            .and_then(|layout| layout.align_to(ALIGN_BYTES))
            .unwrap_or_else(|_| panic!("{len} words are more than an address space holds"))
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        if let (Owner::Heap, 1..) = (&self.owner, self.len) {
            // SAFETY: allocated in `new` with the same layout.
            unsafe { dealloc(self.data.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

/// Bytes of a mapping. What is not handed out of it is never touched, and so takes no memory.
const MAPPING_BYTES: usize = 256 << 20;
/// Size of a huge page: gigabytes of weights in pages of 4 KB keep the CPU busy with looking up where they are.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Hands out memory for weights and arenas, one after another, from large mappings in huge pages where the system has
/// them.
#[derive(Default)]
pub(super) struct LargeMemory {
    mapping: Option<Arc<MmapMut>>,
    used_bytes: usize,
}

impl LargeMemory {
    pub fn words(&mut self, len: usize) -> Words {
        let bytes = aligned(len) * 4;
        if len == 0 || bytes > self.free_bytes() && !self.map(bytes.max(MAPPING_BYTES)) {
            return Words::new(len);
        }
        let Some(mapping) = self.mapping.clone() else { return Words::new(len) };
        // SAFETY: the words lie within the mapping, and nobody else gets them.
        let data = unsafe { NonNull::new_unchecked(mapping.as_ptr().add(self.used_bytes).cast_mut().cast()) };
        self.used_bytes += bytes;
        Words { data, len, owner: Owner::Mapping { _whole: mapping } }
    }

    fn free_bytes(&self) -> usize {
        self.mapping.as_ref().map_or(0, |mapping| mapping.len() - self.used_bytes)
    }

    /// Starts a new mapping with `bytes` from a huge page's start on; false when there is none to be had.
    fn map(&mut self, bytes: usize) -> bool {
        let Ok(mapping) = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES) else { return false };
        // Smaller pages do as well, if more slowly.
        let _ = mapping.advise(Advice::HugePage);
        self.used_bytes = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
        self.mapping = Some(Arc::new(mapping));
        true
    }
}

/// A matrix inside somebody's words: `rows` rows of `cols` words, `stride` apart (0 repeats one row).
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub data: *mut f32,
    pub rows: usize,
    pub cols: usize,
    pub stride: usize,
}

// SAFETY: a matrix is an address; what is done with it is each kernel's responsibility.
unsafe impl Send for Matrix {}
// SAFETY: as above.
unsafe impl Sync for Matrix {}

impl Matrix {
    /// # Safety
    /// The words must be alive, `row` within the matrix, and nobody may write the row meanwhile.
    #[inline(always)]
    pub unsafe fn row<'a>(&self, row: usize) -> &'a [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts(self.data.add(row * self.stride), self.cols) }
    }

    /// # Safety
    /// As [`Self::row`], and nobody else may read the row meanwhile.
    #[inline(always)]
    pub unsafe fn row_mut<'a>(&self, row: usize) -> &'a mut [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: promised by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(row * self.stride), self.cols) }
    }

    /// The whole matrix read as a list of `i32` (positions, tokens, masks): its rows must lie one after another.
    ///
    /// # Safety
    /// As [`Self::row`] for every row.
    pub unsafe fn integers<'a>(&self) -> &'a [i32] {
        debug_assert!(self.rows == 1 || self.stride == self.cols);
        // SAFETY: promised by the caller; every bit pattern is an i32.
        unsafe { std::slice::from_raw_parts(self.data.cast(), self.rows * self.cols) }
    }

    /// # Safety
    /// As [`Self::row_mut`] for every row.
    pub unsafe fn integers_mut<'a>(&self) -> &'a mut [i32] {
        debug_assert!(self.rows == 1 || self.stride == self.cols);
        // SAFETY: promised by the caller; every bit pattern is an i32.
        unsafe { std::slice::from_raw_parts_mut(self.data.cast(), self.rows * self.cols) }
    }
}

/// When a buffer's content is needed: from the first step that touches it to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lifetime {
    pub words: usize,
    pub first: usize,
    pub last: usize,
}

/// Gives each buffer an offset such that buffers alive at the same step never overlap: largest first, each at the
/// lowest offset that is free. Returns the offsets and the arena's size, in words.
pub(super) fn plan(lifetimes: &[Lifetime]) -> (Vec<usize>, usize) {
    let mut order: Vec<usize> = (0..lifetimes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lifetimes[index].words));
    let mut offsets = vec![0; lifetimes.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut size = 0;
    for index in order {
        let this = lifetimes[index];
        let mut neighbours: Vec<(usize, usize)> = placed
            .iter()
            .filter(|&&other| lifetimes[other].first <= this.last && this.first <= lifetimes[other].last)
            .map(|&other| (offsets[other], offsets[other] + aligned(lifetimes[other].words)))
            .collect();
        neighbours.sort_unstable();
        let mut offset = 0;
        for (start, end) in neighbours {
            if offset + aligned(this.words) <= start {
                break;
            }
            offset = offset.max(end);
        }
        offsets[index] = offset;
        size = size.max(offset + aligned(this.words));
        placed.push(index);
    }
    (offsets, size)
}

fn aligned(words: usize) -> usize {
    words.next_multiple_of(ALIGN_WORDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_alive_together_never_overlap_and_others_share() {
        let mut state = 7u32;
        let mut random = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) % below) as usize
        };
        let lifetimes: Vec<Lifetime> = (0..200)
            .map(|first| Lifetime { words: 1 + random(500), first, last: first + random(6) })
            .collect();
        let (offsets, size) = plan(&lifetimes);
        for (a, x) in lifetimes.iter().enumerate() {
            assert!(offsets[a] + x.words <= size);
            for (b, y) in lifetimes.iter().enumerate().skip(a + 1) {
                let together = x.first <= y.last && y.first <= x.last;
                let apart = offsets[a] + x.words <= offsets[b] || offsets[b] + y.words <= offsets[a];
                assert!(!together || apart, "{a} and {b}");
            }
        }
        let total: usize = lifetimes.iter().map(|lifetime| lifetime.words).sum();
        assert!(size * 5 < total, "{size} of {total} words: buffers do not share");
    }

    #[test]
    fn weights_get_memory_of_their_own() {
        let mut memory = LargeMemory::default();
        // The last one is larger than what is left of the first mapping.
        let mut all = [37, 1, 100_000, MAPPING_BYTES / 4].map(|len| memory.words(len));
        for words in &mut all {
            assert_eq!(words.as_ptr().addr() % ALIGN_BYTES, 0);
            let last = words.len() - 1;
            let values = words.as_mut_slice();
            assert_eq!((values[0], values[last]), (0.0, 0.0), "words are zero, and nobody else's");
            (values[0], values[last]) = (1.0, 1.0);
        }
    }

    #[test]
    fn words_are_aligned_and_zero() {
        let words = Words::new(37);
        assert_eq!(words.as_ptr().addr() % ALIGN_BYTES, 0);
        assert!(words.as_slice().iter().all(|&word| word == 0.0));
    }
}
