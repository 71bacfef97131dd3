//! Where the rows or columns of a graph's value lie in a card's tensor, which has more of them: tiles are 32 wide, heads are
//! padded, and a row may stand in another's padding. Called by everything that lowers.

use super::TILE;

/// An axis: `logical` lines of a value among `physical` lines of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    pub logical: usize,
    pub physical: usize,
    /// Place of each line; empty where line i lies at i.
    places: Vec<usize>,
}

impl Axis {
    /// As many lines as the value has.
    pub fn exact(length: usize) -> Self {
        Self { logical: length, physical: length, places: Vec::new() }
    }

    /// The value's lines, then padding up to `physical`.
    pub fn padded(logical: usize, physical: usize) -> Self {
        Self { logical, physical: physical.max(logical), places: Vec::new() }
    }

    /// Padded to whole tiles.
    pub fn tiled(logical: usize) -> Self {
        Self::padded(logical, logical.next_multiple_of(TILE))
    }

    /// The value's lines in a row from `start` on.
    pub fn placed(logical: usize, start: usize, physical: usize) -> Self {
        Self::of((start..start + logical).collect(), physical)
    }

    /// Each line at its own place.
    pub fn of(places: Vec<usize>, physical: usize) -> Self {
        let identity = places.iter().enumerate().all(|(line, &place)| line == place);
        Self { logical: places.len(), physical, places: if identity { Vec::new() } else { places } }
    }

    /// Columns of heads of `dim`, each padded to `padded`.
    pub fn heads(heads: usize, dim: usize, padded: usize) -> Self {
        Self::of(
            (0..heads * dim).map(|column| column / dim * padded + column % dim).collect(),
            heads * padded,
        )
    }

    /// Columns of heads that are rotated. The model pairs an element with the one half a head further, the library an
    /// element with its neighbour: so they become neighbours.
    pub fn rotated_heads(heads: usize, dim: usize, padded: usize) -> Self {
        let half = dim / 2;
        let place = |column: usize| {
            let (head, i) = (column / dim, column % dim);
            head * padded + if i < half { 2 * i } else { 2 * (i - half) + 1 }
        };
        Self::of((0..heads * dim).map(place).collect(), heads * padded)
    }

    /// The lines of several axes one after another.
    pub fn joined(parts: &[Self]) -> Self {
        let mut places = Vec::new();
        let mut start = 0;
        for part in parts {
            places.extend(part.places().map(|place| start + place));
            start += part.physical;
        }
        Self::of(places, start)
    }

    /// Lines `start..end` of the value, in the same tensor.
    pub fn slice(&self, start: usize, end: usize) -> Self {
        Self::of((start..end).map(|line| self.place(line)).collect(), self.physical)
    }

    /// Where a line lies.
    pub fn place(&self, line: usize) -> usize {
        if self.places.is_empty() { line } else { self.places[line] }
    }

    /// Where every line lies.
    pub fn places(&self) -> impl Iterator<Item = usize> {
        (0..self.logical).map(|line| self.place(line))
    }

    /// Which line lies at each place, if any.
    pub fn lines(&self) -> Vec<Option<usize>> {
        let mut lines = vec![None; self.physical];
        self.places().enumerate().for_each(|(line, place)| lines[place] = Some(line));
        lines
    }

    /// Whether line i lies at i and nothing is padded.
    pub fn is_exact(&self) -> bool {
        self.places.is_empty() && self.logical == self.physical
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_padded_and_rotated_pairs_are_neighbours() {
        let axis = Axis::heads(2, 3, 8);
        assert_eq!(axis.places().collect::<Vec<_>>(), [0, 1, 2, 8, 9, 10]);
        assert_eq!(axis.physical, 16);
        assert!(Axis::heads(3, 64, 64).is_exact());
        let rotated = Axis::rotated_heads(2, 4, 8);
        assert_eq!(rotated.places().collect::<Vec<_>>(), [0, 2, 1, 3, 8, 10, 9, 11]);
    }

    #[test]
    fn slices_stay_where_they_are() {
        let axis = Axis::of(vec![50, 0, 1, 2], 64);
        assert_eq!(axis.slice(1, 4), Axis::padded(3, 64));
        assert_eq!(axis.lines()[50], Some(0));
        assert_eq!(axis.lines()[51], None);
    }

    #[test]
    fn joined_axes_follow_each_other() {
        let both = Axis::joined(&[Axis::exact(3), Axis::tiled(2)]);
        assert_eq!((both.logical, both.physical), (5, 35));
        assert_eq!(both.places().collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        let spread = Axis::joined(&[Axis::tiled(2), Axis::exact(1)]);
        assert_eq!(spread.places().collect::<Vec<_>>(), [0, 1, 32]);
    }
}
