//! The control path allocates nothing: a counting allocator watches every thread of the process while cycles run on the
//! real device. Alone in its file, because the allocator is the whole program's.

#[path = "support/robot.rs"]
mod robot;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pi0_node::bag::commands::StreamMessage;
use pi0_node::control::{Outcome, Wiring, assemble};
use pi0_node::device::Silent;
use pi0_node::device::cpu::Precision;
use pi0_node::policy::{Continuation, PolicyConfig};
use pi0_node::settings::{Camera, ChunkJoin, Interpolation, MissingCamera, Output, OutputKind, Settings};
use robot::{
    image, put_image, put_joints, put_positions, settings, stamp_ms, write_checkpoint, write_checkpoint_of,
};

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
    let plain = settings(folder.path());
    no_cycle_allocates(&Settings { precision: Precision::F32, ..plain.clone() });
    no_cycle_allocates(&Settings { precision: Precision::Bf16, ..plain.clone() });
    no_cycle_allocates(&with_everything(plain.clone()));
    no_cycle_allocates(&Settings {
        chunk_join: ChunkJoin::Guided { blend_ms: 100.0 },
        ..with_everything(plain)
    });

    // With points that are given.
    let folder = tempfile::tempdir().unwrap();
    let continuation = Continuation::Given { most: 8 };
    for config in [PolicyConfig::TINY, PolicyConfig::PI05_TINY] {
        let folder = folder.path().join(config.variant.name);
        write_checkpoint_of(&folder, &PolicyConfig { continuation, ..config });
        no_cycle_allocates(&Settings {
            chunk_join: ChunkJoin::Auto { blend_ms: 100.0 },
            ..settings(&folder)
        });
    }

    // With a prompt for each state, of all lengths.
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint_of(folder.path(), &PolicyConfig::PI05_TINY);
    no_cycle_allocates(&settings(folder.path()));
    no_cycle_allocates(&with_everything(settings(folder.path())));

    // The counter does count.
    ARMED.store(true, SeqCst);
    drop(Box::new(1));
    ARMED.store(false, SeqCst);
    assert!(COUNT.load(SeqCst) > 0);
}

/// A choice of denoising steps, acts between frame sets, a blend, limits, a stream along splines, and a camera that goes
/// missing.
fn with_everything(mut settings: Settings) -> Settings {
    settings.denoise_steps = vec![4, 2];
    settings.act_rate_hz = 100.0;
    settings.chunk_join = ChunkJoin::Blend { blend_ms: 100.0 };
    settings.limits.position_max = vec![1e3; 2];
    settings.limits.velocity_max = vec![1e5; 2];
    settings.limits.step_max = vec![1e3; 2];
    settings.interpolation = Interpolation::Spline;
    settings.outputs = [OutputKind::Positions, OutputKind::JointState]
        .map(|kind| Output { name: "arm".into(), topic: "/arm".into(), kind, joints: vec![1, 0] })
        .into();
    settings.max_image_age_ms = 250.0;
    settings.cameras[1] =
        Camera { topic: Some("/left".into()), missing: MissingCamera::Mask, ..settings.cameras[1].clone() };
    settings
}

fn no_cycle_allocates(settings: &Settings) {
    let mut wiring = assemble(settings, &Silent).unwrap();
    let mut messages = StreamMessage::all(&settings.outputs, &settings.joints).unwrap();
    let mut sequence = 0;
    for cycle in 0..8 {
        let now = 100 * cycle;
        put_image(&mut wiring, now);
        put_joints(&mut wiring, now);
        if let Some(camera) = wiring.cameras.get_mut(1).filter(|_| cycle < 4) {
            camera.put_image(&image(stamp_ms(now)), stamp_ms(now)).unwrap();
        }
        if cycle == 3 {
            // Long enough for other programs than the first prompt's.
            wiring.prompt.put(&"another task ".repeat(2)).unwrap();
        }
        let [first, idle] = [0, 0].map(|_| counted_step(&mut wiring, now, &mut sequence));
        counted_ticks(&mut wiring, &mut messages, now);
        // While a missing camera is waited for, these are acts on the set before.
        assert_eq!((first, idle), (Outcome::Chunk, Outcome::Idle), "cycle {cycle}");

        // Numbers of three digits in pi0.5's prompt, and once of two; more often would be a joint that goes back and forth.
        put_positions(&mut wiring, now + 20, [if cycle == 5 { -0.3 } else { 0.12 }, 0.2]);
        let again = counted_step(&mut wiring, now + 20, &mut sequence);
        assert_eq!(again == Outcome::Chunk, settings.act_rate_hz > 0.0, "cycle {cycle}");
    }
    // Two sets waited in vain for the second camera, then it was left out.
    let frame_sets = if wiring.cameras.len() > 1 { 6 } else { 8 };
    assert_eq!(wiring.monitor.snapshot().frame_sets, frame_sets);
}

/// A step and what is sent after it, which must not allocate; counts the chunks in `sequence`.
fn counted_step(wiring: &mut Wiring, ms: i64, sequence: &mut u64) -> Outcome {
    let clock = || stamp_ms(ms);
    ARMED.store(true, SeqCst);
    let outcome = wiring.cycle.step_in_time(&clock);
    let sent =
        wiring.chunks.send(clock, |chunk, _| if chunk.sequence == *sequence { Ok(()) } else { Err(()) });
    ARMED.store(false, SeqCst);

    assert_eq!(COUNT.load(SeqCst), 0, "at {ms} ms");
    assert_eq!(sent, Ok(outcome == Outcome::Chunk), "at {ms} ms");
    *sequence += u64::from(outcome == Outcome::Chunk);
    outcome
}

/// Ticks of the streams until the next frame, which must not allocate.
fn counted_ticks(wiring: &mut Wiring, messages: &mut [StreamMessage], ms: i64) {
    let Some(stream) = &mut wiring.stream else { return };
    let mut sent = 0;
    ARMED.store(true, SeqCst);
    for tick in 0..8 {
        stream.tick(stamp_ms(ms + 10 * tick), |tick| {
            sent += messages.iter_mut().map(|message| message.of(tick).len()).sum::<usize>();
        });
    }
    ARMED.store(false, SeqCst);
    assert_eq!(COUNT.load(SeqCst), 0, "ticks after {ms} ms");
    assert!(sent > 0, "ticks after {ms} ms");
}
