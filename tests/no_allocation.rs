//! The control path allocates nothing: a counting allocator watches every thread of the process while cycles run on the
//! real device. Alone in its file, because the allocator is the whole program's.

#[path = "support/robot.rs"]
mod robot;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pi0_node::control::{Outcome, assemble};
use pi0_node::device::Silent;
use pi0_node::device::cpu::Precision;
use pi0_node::settings::Settings;
use robot::{put_image, put_joints, settings, stamp_ms, write_checkpoint};

struct Counting;

static ARMED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

fn count() {
    if ARMED.load(SeqCst) {
        COUNT.fetch_add(1, SeqCst);
    }
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_cycle_allocates_and_frees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path());
    for precision in [Precision::F32, Precision::Bf16] {
        no_cycle_allocates(&Settings { precision, ..settings(folder.path()) });
    }

    // The counter does count.
    ARMED.store(true, SeqCst);
    drop(Box::new(1));
    ARMED.store(false, SeqCst);
    assert!(COUNT.load(SeqCst) > 0);
}

fn no_cycle_allocates(settings: &Settings) {
    let mut wiring = assemble(settings, &Silent).unwrap();
    for cycle in 0..5 {
        let now = 100 * cycle;
        put_image(&mut wiring, now);
        put_joints(&mut wiring, now);
        if cycle == 3 {
            // Long enough for other programs than the first prompt's.
            wiring.prompt.put(&"another task ".repeat(2)).unwrap();
        }

        ARMED.store(true, SeqCst);
        let outcome = wiring.cycle.step(stamp_ms(now));
        let idle = wiring.cycle.step(stamp_ms(now));
        let sent = wiring
            .chunks
            .send(|| stamp_ms(now), |chunk| if chunk.sequence == cycle as u64 { Ok(()) } else { Err(()) });
        ARMED.store(false, SeqCst);

        assert_eq!((outcome, idle), (Outcome::Chunk, Outcome::Idle));
        assert_eq!(COUNT.load(SeqCst), 0, "cycle {cycle}");
        assert_eq!(sent, Ok(true));
    }
}
