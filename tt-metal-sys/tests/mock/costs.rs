//! What calls cost, and that those of a control cycle allocate nothing.

use std::alloc::{GlobalAlloc, System};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tt_metal_sys::{DataType, HostData, Layout, Memory, Runtime, Session};

use crate::operations::Linear;
use crate::{spec, tiles};

/// Counts what Rust allocates. Python and `ttnn` have their own.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: it passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as asked.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

pub fn a_cycle_allocates_nothing(session: &Session) {
    let (linear, input, output, trace) = session.with(|runtime| {
        let linear = Linear::new(runtime);
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
        let capture = runtime.begin_trace(0).unwrap();
        let output = linear.call(runtime).unwrap();
        let trace = runtime.end_trace(capture).unwrap();
        (linear.tensors, runtime.allocate(&tiles(&[1, 32], DataType::Float32)).unwrap(), output, trace)
    });
    let mut values = [0.0; 64 * 96];
    let mut cycle = || {
        session.with(|runtime| {
            runtime.write(input, HostData::Float32(&values[..32]), 1)?;
            let written = runtime.record_event(1)?;
            runtime.wait_for_event(0, written)?;
            runtime.replay(trace, 0, false)?;
            let ended = runtime.record_event(0)?;
            runtime.wait_until(ended)?;
            runtime.read(output, &mut values, 0)
        })
    };
    cycle().unwrap();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..100 {
        cycle().unwrap();
    }
    assert_eq!(ALLOCATIONS.load(Ordering::Relaxed), before);
    cost("a cycle of all these", || cycle().unwrap());
    cost("a visit to the thread", || session.with(|_| ()));
    session.with(|runtime| {
        runtime.release(trace).unwrap();
        for tensor in linear.into_iter().chain([input, output]) {
            runtime.free(tensor).unwrap();
        }
    });
}

/// Least time of a call, of many.
fn cost(name: &str, mut call: impl FnMut()) {
    call();
    let mut least = Duration::MAX;
    for _ in 0..500 {
        let start = Instant::now();
        call();
        least = least.min(start.elapsed());
    }
    println!("  {name}: {:.1} us", least.as_secs_f64() * 1e6);
}

/// Not asserted: what calls cost on this machine, as `--nocapture` shows.
pub fn show(runtime: &mut Runtime) {
    let images = spec(&[3, 224, 224, 3], DataType::Bfloat16, Layout::RowMajor, Memory::Dram);
    let images = runtime.allocate(&images).unwrap();
    let state = runtime.allocate(&tiles(&[1, 32], DataType::Float32)).unwrap();
    let actions = runtime.allocate(&tiles(&[1, 50, 32], DataType::Float32)).unwrap();
    let pixels = vec![0; 3 * 224 * 224 * 3];
    let linear = Linear::new(runtime);
    let result = linear.call(runtime).unwrap();
    runtime.free(result).unwrap();
    let capture = runtime.begin_trace(0).unwrap();
    let result = linear.call(runtime).unwrap();
    let trace = runtime.end_trace(capture).unwrap();

    cost("write (3, 224, 224, 3) bfloat16", || {
        runtime.write(images, HostData::Bfloat16(&pixels), 1).unwrap()
    });
    cost("write (1, 32) f32 in tiles", || runtime.write(state, HostData::Float32(&[0.0; 32]), 1).unwrap());
    cost("read (1, 50, 32) f32 in tiles", || runtime.read(actions, &mut [0.0; 1600], 0).unwrap());
    cost("replay", || runtime.replay(trace, 0, false).unwrap());
    cost("record and wait for an event", || {
        let event = runtime.record_event(0).unwrap();
        runtime.wait_for_event(1, event).unwrap();
    });
    cost("record an event and wait until it", || {
        let event = runtime.record_event(0).unwrap();
        runtime.wait_until(event).unwrap();
    });
    cost("call of a linear and free", || {
        let result = linear.call(runtime).unwrap();
        runtime.free(result).unwrap();
    });
    runtime.release(trace).unwrap();
    for tensor in [images, state, actions, result] {
        runtime.free(tensor).unwrap();
    }
    linear.free(runtime);
}
