//! Where every value of a graph lives: which buffer, and which part of it. Slices and repeated rows are views of their
//! operand's buffer, so they cost nothing. Used by `compile`.

use std::sync::Arc;

use super::kernels::product::{Destination, PackedRows, Precision, RowBlocks};
use super::memory::{LargeMemory, Lifetime, Matrix, Words, plan};
use crate::graph::{TensorType, ValueId};

/// Names one buffer of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BufferId(usize);

/// What a buffer's memory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Shared with buffers whose content is needed at other times.
    Arena,
    /// The program's own, at all times: inputs, outputs, constants, small weights.
    Pinned,
    /// The device's, shared with other programs under this name.
    Resident(String),
}

struct Buffer {
    words: usize,
    home: Home,
}

/// A matrix inside a buffer, before the buffer has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub buffer: BufferId,
    offset: usize,
    rows: usize,
    cols: usize,
    stride: usize,
}

impl View {
    /// Rows `start..end`.
    pub fn rows(self, start: usize, end: usize) -> Self {
        Self { offset: self.offset + start * self.stride, rows: end - start, ..self }
    }

    /// Columns `start..end`.
    pub fn cols(self, start: usize, end: usize) -> Self {
        Self { offset: self.offset + start, cols: end - start, ..self }
    }

    /// A single row, `rows` times.
    pub fn repeated(self, rows: usize) -> Self {
        Self { rows, stride: 0, ..self }
    }
}

/// Rows packed for products, before their buffer has an address.
#[derive(Clone, Copy)]
pub(super) struct PackedView {
    pub buffer: View,
    pub blocks: RowBlocks,
    pub words: usize,
    pub precision: Precision,
    pub whole: bool,
}

/// A result in the forms that its readers want, before its buffers have addresses.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub rows: Option<View>,
    pub packed: Option<PackedView>,
}

impl Place {
    pub fn views(&self) -> impl Iterator<Item = View> {
        self.rows.into_iter().chain(self.packed.map(|packed| packed.buffer))
    }
}

/// The buffers of one program, and where the values are that have a place.
pub(super) struct Layout {
    buffers: Vec<Buffer>,
    places: Vec<Option<View>>,
}

impl Layout {
    pub fn new(values: usize) -> Self {
        Self { buffers: Vec::new(), places: vec![None; values] }
    }

    /// A new buffer of `rows` x `cols` words.
    pub fn buffer(&mut self, rows: usize, cols: usize, home: Home) -> View {
        let buffer = BufferId(self.buffers.len());
        self.buffers.push(Buffer { words: rows * cols, home });
        View { buffer, offset: 0, rows, cols, stride: cols }
    }

    /// Gives `value` a new buffer.
    pub fn place(&mut self, value: ValueId, ty: &TensorType, home: Home) -> View {
        let view = self.buffer(ty.rows(), ty.columns(), home);
        self.set(value, view);
        view
    }

    pub fn set(&mut self, value: ValueId, view: View) {
        self.places[value.index()] = Some(view);
    }

    pub fn get(&self, value: ValueId) -> Option<View> {
        self.places[value.index()]
    }

    /// Takes a buffer out of the arena: its content must survive the run.
    pub fn pin(&mut self, view: View) {
        let home = &mut self.buffers[view.buffer.0].home;
        if *home == Home::Arena {
            *home = Home::Pinned;
        }
    }

    /// Makes the buffer the resident `name`, if `view` is all of it and it is nothing else yet.
    pub fn make_resident(&mut self, view: View, name: &str) -> bool {
        let possible = self.is_whole_in_arena(view);
        if possible {
            self.buffers[view.buffer.0].home = Home::Resident(name.into());
        }
        possible
    }

    /// Whether `view` is all of a buffer that nothing outside the program knows.
    pub fn is_whole_in_arena(&self, view: View) -> bool {
        let buffer = &self.buffers[view.buffer.0];
        buffer.home == Home::Arena
            && view.offset == 0
            && view.stride == view.cols
            && view.rows * view.cols == buffer.words
    }

    /// Gives every buffer its address. `touched[step]` are the buffers that a step reads or writes; `resident` finds
    /// the memory of a resident value; `arena` is that of an earlier program, taken if it is large enough, since one
    /// program runs at a time.
    pub fn allocate(
        &self,
        touched: &[Vec<BufferId>],
        mut resident: impl FnMut(&str) -> *mut f32,
        arena: &mut Option<Arc<Words>>,
        large: &mut LargeMemory,
    ) -> (Memory, Addresses) {
        let mut alive: Vec<Option<(usize, usize)>> = vec![None; self.buffers.len()];
        for (step, buffers) in touched.iter().enumerate() {
            for buffer in buffers {
                let (_, last) = alive[buffer.0].get_or_insert((step, step));
                *last = step;
            }
        }
        let in_arena: Vec<(usize, Lifetime)> = self
            .buffers
            .iter()
            .enumerate()
            .filter(|(_, buffer)| buffer.home == Home::Arena)
            .filter_map(|(index, buffer)| {
                let (first, last) = alive[index]?;
                Some((index, Lifetime { words: buffer.words, first, last }))
            })
            .collect();
        let lifetimes: Vec<Lifetime> = in_arena.iter().map(|(_, lifetime)| *lifetime).collect();
        let (offsets, size) = plan(&lifetimes);
        let arena = match arena {
            Some(arena) if arena.len() >= size => arena.clone(),
            _ => arena.insert(Arc::new(large.words(size))).clone(),
        };
        let mut memory = Memory { arena, pinned: Vec::new() };
        let mut addresses = vec![std::ptr::null_mut(); self.buffers.len()];
        for (&(index, _), offset) in in_arena.iter().zip(offsets) {
            // SAFETY: `plan` places every buffer within the arena.
            addresses[index] = unsafe { memory.arena.as_ptr().add(offset) };
        }
        for (buffer, address) in self.buffers.iter().zip(&mut addresses) {
            match &buffer.home {
                Home::Arena => {}
                Home::Pinned => {
                    let words = Words::new(buffer.words);
                    *address = words.as_ptr();
                    memory.pinned.push(words);
                }
                Home::Resident(name) => *address = resident(name),
            }
        }
        (memory, Addresses(addresses))
    }
}

/// The memory of one program. Its buffers stay where they are for as long as it lives.
pub(super) struct Memory {
    arena: Arc<Words>,
    pinned: Vec<Words>,
}

impl Memory {
    /// Bytes of the arena, shared or not, and of everything pinned.
    pub fn bytes(&self) -> usize {
        4 * (self.arena.len() + self.pinned.iter().map(Words::len).sum::<usize>())
    }
}

/// Where each buffer starts.
pub(super) struct Addresses(Vec<*mut f32>);

impl Addresses {
    pub fn matrix(&self, view: View) -> Matrix {
        let View { buffer, offset, rows, cols, stride } = view;
        // `wrapping_add` only because it needs no promise: views lie within their buffers.
        Matrix { data: self.0[buffer.0].wrapping_add(offset), rows, cols, stride }
    }

    pub fn packed(&self, view: PackedView) -> PackedRows {
        let PackedView { buffer, blocks, words, precision, whole } = view;
        PackedRows { data: self.matrix(buffer).data, blocks, words, precision, whole }
    }

    pub fn destination(&self, place: Place) -> Destination {
        Destination {
            rows: place.rows.map(|view| self.matrix(view)),
            packed: place.packed.map(|view| self.packed(view)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_find_their_part_of_the_buffer() {
        let mut layout = Layout::new(0);
        let whole = layout.buffer(4, 6, Home::Pinned);
        let (memory, addresses) =
            layout.allocate(&[], |_| std::ptr::null_mut(), &mut None, &mut LargeMemory::default());
        let base = addresses.matrix(whole).data.addr();
        let part = addresses.matrix(whole.rows(1, 3).cols(2, 5));
        assert_eq!((part.data.addr() - base) / 4, 8);
        assert_eq!((part.rows, part.cols, part.stride), (2, 3, 6));
        let row = addresses.matrix(whole.rows(2, 3).repeated(7));
        assert_eq!((row.rows, row.stride), (7, 0));
        assert_eq!(memory.bytes(), 4 * 24);
    }

    #[test]
    fn only_a_whole_buffer_of_the_arena_becomes_resident() {
        let mut layout = Layout::new(0);
        let whole = layout.buffer(4, 6, Home::Arena);
        assert!(!layout.make_resident(whole.rows(0, 2), "k"));
        assert!(layout.make_resident(whole, "k"));
        assert!(!layout.make_resident(whole, "v"), "one buffer cannot be two residents");
    }
}
