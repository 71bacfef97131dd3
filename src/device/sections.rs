//! Which steps of a program belong to which section, for devices that time sections: the clock is read where one stretch of steps
//! follows another, not at every step. Used by `cpu` and `cuda`.

use std::ops::Range;
use std::time::Duration;

use super::{SectionTime, section_of};

/// A program's stretches, and what its sections took.
pub(super) struct Sections {
    stretches: Vec<Stretch>,
    times: Vec<SectionTime>,
}

/// Steps of one section that follow each other.
struct Stretch {
    steps: Range<usize>,
    /// Number among the times.
    section: usize,
}

impl Sections {
    /// Of steps by the names of their nodes.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Self {
        let mut times: Vec<SectionTime> = Vec::new();
        let mut stretches: Vec<Stretch> = Vec::new();
        for (index, node) in nodes.into_iter().enumerate() {
            let name = section_of(node);
            let section = times.iter().position(|section| section.name == name).unwrap_or_else(|| {
                times.push(SectionTime { name: name.to_owned(), time: Duration::ZERO });
                times.len() - 1
            });
            match stretches.last_mut() {
                Some(last) if last.section == section => last.steps.end = index + 1,
                _ => stretches.push(Stretch { steps: index..index + 1, section }),
            }
        }
        Self { stretches, times }
    }

    /// The steps of each stretch, in order.
    pub fn stretches(&self) -> impl Iterator<Item = Range<usize>> {
        self.stretches.iter().map(|stretch| stretch.steps.clone())
    }

    /// Times a run: `time` says how long each stretch took. Allocates nothing.
    pub fn measure<E>(&mut self, mut time: impl FnMut(Range<usize>) -> Result<Duration, E>) -> Result<(), E> {
        self.times.iter_mut().for_each(|section| section.time = Duration::ZERO);
        for Stretch { steps, section } in &self.stretches {
            self.times[*section].time += time(steps.clone())?;
        }
        Ok(())
    }

    /// What was measured last.
    pub fn times(&self) -> &[SectionTime] {
        &self.times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stretches_of_a_section_are_added_up() {
        let nodes = ["vision.a", "vision.b", "mask", "vision.c", "steps.0.x", "steps.1.x", "steps.1.y"];
        let mut sections = Sections::of(nodes);
        assert_eq!(sections.stretches().collect::<Vec<_>>(), [0..2, 2..3, 3..4, 4..5, 5..7]);
        for _ in 0..2 {
            let each = |steps: Range<usize>| Ok::<_, ()>(Duration::from_millis(steps.len() as u64));
            sections.measure(each).unwrap();
        }
        let found: Vec<_> =
            sections.times().iter().map(|section| (&section.name[..], section.time.as_millis())).collect();
        assert_eq!(found, [("vision", 3), ("mask", 1), ("steps.0", 1), ("steps.1", 2)]);
    }
}
