//! What telemetry costs, for docs/dashboard.md: `cargo test --test telemetry_cost -- --ignored --nocapture`. It prints
//! figures and asserts nothing: they depend on the machine and on who else is on it.

#[path = "support/fake_robot.rs"]
mod fake_robot;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use fake_robot::FakeRobot;
use pi0_node::telemetry::{CycleRecord, Stage};

/// The median of rounds, in nanoseconds each.
fn cost_ns(per_round: u32, mut work: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..21)
        .map(|_| {
            let start = Instant::now();
            (0..per_round).for_each(|_| work());
            start.elapsed().as_nanos() as f64 / f64::from(per_round)
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

#[test]
#[ignore = "prints figures"]
fn what_recording_and_looking_cost() {
    let mut robot = FakeRobot::new();
    for _ in 0..5000 {
        robot.receive();
        robot.cycle(0.0);
    }
    let metrics = Arc::clone(&robot.metrics);
    let mut record = CycleRecord::default();
    Stage::ALL.into_iter().for_each(|stage| record.set(stage, Duration::from_millis(5)));
    let mut nanoseconds = 1_000_000;
    let mut recording = |what: &str| {
        let stage = cost_ns(100_000, || {
            // A different bucket every time.
            nanoseconds = (nanoseconds * 17 + 11_003) % 60_000_000;
            metrics.record(black_box(Stage::Act), Duration::from_nanos(nanoseconds));
        });
        let cycle = cost_ns(20_000, || metrics.cycle_finished(black_box(&record)));
        println!("{what}: a stage {stage:.1} ns, a cycle's record {cycle:.1} ns");
    };
    recording("alone");

    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                black_box((robot.metrics.snapshot(), robot.metrics.cycles_since(0)));
            }
        });
        recording("while another thread looks without pause");
        stop.store(true, Relaxed);
    });

    for (what, ns) in [
        ("counters", cost_ns(200, || drop(black_box(robot.metrics.counts())))),
        ("all quantiles", cost_ns(20, || drop(black_box(robot.metrics.snapshot())))),
        ("all histograms", cost_ns(20, || drop(black_box(robot.metrics.distributions())))),
        ("5000 cycles", cost_ns(20, || drop(black_box(robot.metrics.cycles_since(0))))),
    ] {
        println!("a look at {what}: {:.3} ms", ns / 1e6);
    }
}
