//! The control path allocates nothing: a counting allocator watches every thread of the process while cycles run on the
//! real device. Alone in its file, because the allocator is the whole program's.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use pi0_node::control::{Outcome, assemble};
use pi0_node::device::Silent;
use pi0_node::graph::WeightFormat;
use pi0_node::observe::messages::{Image, JointState, Stamp};
use pi0_node::observe::write_small_tokenizer;
use pi0_node::policy::PolicyConfig;
use pi0_node::policy::checkpoint::init::write_random;
use pi0_node::settings::{Camera, Normalization, Settings, Transport};

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

fn settings(folder: &std::path::Path) -> Settings {
    let camera = |name: &str, topic: Option<&str>| Camera {
        name: name.into(),
        topic: topic.map(str::to_owned),
        transport: Transport::Raw,
    };
    Settings {
        checkpoint: folder.into(),
        device: "cpu".into(),
        threads: 2,
        seed: 1,
        cameras: vec![
            camera("base_0_rgb", Some("/top")),
            camera("left_wrist_0_rgb", None),
        ],
        joint_states_topic: "/joint_states".into(),
        joints: vec!["waist".into(), "elbow".into()],
        prompt: "go".into(),
        tokenizer: None,
        normalization: Normalization::None,
        delta_actions: vec![1, -1],
        control_hz: 50.0,
        sync_tolerance_ms: 10.0,
        num_inference_steps: None,
        sensor_timeout_ms: 500.0,
        diagnostics_hz: 1.0,
    }
}

#[test]
fn a_cycle_allocates_and_frees_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_random(folder.path(), &PolicyConfig::TINY, 1, WeightFormat::BF16, &|_| {}).unwrap();
    write_small_tokenizer(
        &folder.path().join("tokenizer.json"),
        PolicyConfig::TINY.vocabulary,
    )
    .unwrap();
    let mut wiring = assemble(&settings(folder.path()), &Silent).unwrap();
    let pixels = vec![100; 60 * 40 * 3];
    let names = ["waist".to_owned(), "elbow".to_owned()];

    for cycle in 0..5 {
        let stamp = Stamp(cycle * 100_000_000);
        let data = &pixels;
        let image = Image {
            stamp,
            height: 40,
            width: 60,
            encoding: "rgb8",
            step: 180,
            data,
        };
        wiring.cameras[0].put_image(&image).unwrap();
        wiring
            .joints
            .put(
                &JointState {
                    stamp,
                    names: &names,
                    positions: &[0.1, 0.2],
                },
                stamp,
            )
            .unwrap();
        if cycle == 3 {
            wiring.prompt.put("another task").unwrap();
        }

        ARMED.store(true, SeqCst);
        let outcome = wiring.cycle.step(stamp);
        let idle = wiring.cycle.step(stamp);
        ARMED.store(false, SeqCst);

        assert_eq!((outcome, idle), (Outcome::Chunk, Outcome::Idle));
        assert_eq!(COUNT.load(SeqCst), 0, "cycle {cycle}");
        assert_eq!(wiring.chunks.try_recv().unwrap().sequence, cycle as u64);
    }

    // The counter does count.
    ARMED.store(true, SeqCst);
    drop(Box::new(1));
    ARMED.store(false, SeqCst);
    assert!(COUNT.load(SeqCst) > 0);
}
