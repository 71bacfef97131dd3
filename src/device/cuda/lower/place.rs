//! Gives the buffers that do not outlast a run their places in the working memory: two may share one where the first is not read
//! any more when the second is written. Part of `lower`.

use std::ops::Range;

use super::super::program::{Origin, Program};

/// A place is a multiple of this: what vector loads and cuBLASLt's best kernels want.
const ALIGNMENT: usize = 256;

pub fn place(program: &mut Program) {
    let mut lives: Vec<Option<Range<usize>>> = vec![None; program.buffers.len()];
    for (index, call) in program.calls.iter().enumerate() {
        let (read, written) = call.views();
        for view in read.iter().chain(&written) {
            let life = lives[view.buffer.0 as usize].get_or_insert(index..index);
            life.end = index + 1;
        }
    }
    // Those that are in use, by place: call after which they are not, first byte, end.
    let mut placed: Vec<(usize, Range<usize>)> = Vec::new();
    let mut order: Vec<usize> = (0..program.buffers.len()).collect();
    order.sort_by_key(|&buffer| lives[buffer].as_ref().map(|life| life.start));
    program.work_bytes = 0;
    for buffer in order {
        let bytes = program.buffers[buffer].bytes().next_multiple_of(ALIGNMENT);
        let (Origin::Work { place }, Some(life)) = (&mut program.buffers[buffer].origin, &lives[buffer])
        else {
            continue;
        };
        placed.retain(|(end, _)| *end > life.start);
        let mut first = 0;
        for (_, taken) in &placed {
            if first + bytes <= taken.start {
                break;
            }
            first = first.max(taken.end);
        }
        *place = first;
        let at = placed.partition_point(|(_, taken)| taken.start < first);
        placed.insert(at, (life.end, first..first + bytes));
        program.work_bytes = program.work_bytes.max(first + bytes);
    }
}
