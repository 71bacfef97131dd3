//! What joins do for a robot whose chunks come late: the known policy's chunks by `chunk_join` and latency, executed by the rules of
//! ros2_control in lockstep. Prints what docs/realtime.md has, and draws its plot:
//!
//!     cargo test --test joins -- --nocapture
//!     PI0_DRAW_JOINS=docs/joins.svg cargo test --test joins

#[path = "support/executed.rs"]
mod executed;
#[path = "support/known_policy.rs"]
mod known_policy;

use std::fmt::Write;

use executed::{Executed, execute};
use pi0_node::settings::{ChunkJoin, Interpolation};

const LATENCIES_MS: [i64; 4] = [0, 40, 100, 200];
const JOINS: [(&str, ChunkJoin); 3] = [
    ("replace", ChunkJoin::Replace),
    ("blend", ChunkJoin::Blend { blend_ms: 100.0 }),
    ("guided", ChunkJoin::Guided { blend_ms: 100.0 }),
];

/// A loop that takes so long makes its next chunk when it has sent this one. Each leads on from where its observation found the joints,
/// so that it disagrees with the one before by as much as the robot has moved since.
fn run(join: ChunkJoin, interpolation: Interpolation, latency_ms: i64) -> Executed {
    execute(interpolation, join, (latency_ms.max(100), latency_ms), 0)
}

#[test]
fn guided_chunks_go_on_where_the_robot_is() {
    let mut plot = Plot::default();
    for interpolation in [Interpolation::Linear, Interpolation::Spline] {
        println!("{interpolation:?}: jump; step of velocity; jerk");
        for latency_ms in LATENCIES_MS {
            let found = JOINS.map(|(name, join)| (name, run(join, interpolation, latency_ms)));
            for (name, Executed { jump, velocity_step, jerk, led, .. }) in &found {
                println!(
                    "{latency_ms:>4} ms {name:<8} {jump:>8.4} rad {velocity_step:>8.3} rad/s {jerk:>10.0} rad/s^3"
                );
                assert_eq!(*led > 0, *name == "guided", "{name}");
            }
            let [(_, replace), (_, _), (_, guided)] = &found;
            // Without latency there is nothing to hold on to but the present point.
            let jumps = (guided.jump, replace.jump);
            assert!(jumps.0 <= jumps.1 + 5e-3, "{latency_ms} ms: {jumps:?}");
            if latency_ms > 0 {
                assert!(jumps.0 < 0.5 * jumps.1, "{latency_ms} ms: {jumps:?}");
            }
            if interpolation == Interpolation::Linear {
                plot.add(latency_ms, &found);
            }
        }
    }
    if let Some(path) = std::env::var_os("PI0_DRAW_JOINS") {
        std::fs::write(path, plot.svg()).unwrap();
    }
}

/// Where the first joint is over time: a panel for each latency, a line for each join.
#[derive(Default)]
struct Plot {
    panels: Vec<(i64, Vec<Vec<f64>>)>,
}

impl Plot {
    fn add(&mut self, latency_ms: i64, found: &[(&str, Executed)]) {
        self.panels
            .push((latency_ms, found.iter().map(|(_, executed)| executed.first_joint.clone()).collect()));
    }

    fn svg(&self) -> String {
        const WIDTH: f64 = 860.0;
        const HEIGHT: f64 = 150.0;
        const SHOWN_MS: usize = 700;
        let colours = ["#c0392b", "#e08e0b", "#1f6fb2"];
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
            30.0 + HEIGHT * self.panels.len() as f64
        );
        for (index, ((name, _), colour)) in JOINS.iter().zip(colours).enumerate() {
            let x = 120 + 110 * index;
            writeln!(
                svg,
                "<line x1=\"{x}\" y1=\"16\" x2=\"{}\" y2=\"16\" stroke=\"{colour}\" stroke-width=\"2\"/><text x=\"{}\" y=\"20\">{name}</text>",
                x + 24,
                x + 30
            )
            .unwrap();
        }
        for (panel, (latency_ms, lines)) in self.panels.iter().enumerate() {
            let top = 30.0 + HEIGHT * panel as f64;
            let shown = |line: &Vec<f64>| line.iter().take(SHOWN_MS).copied().collect::<Vec<_>>();
            let all: Vec<f64> = lines.iter().flat_map(shown).collect();
            let (low, high) = all.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            writeln!(svg, "<text x=\"8\" y=\"{}\">{latency_ms} ms late</text>", top + HEIGHT / 2.0).unwrap();
            for (line, colour) in lines.iter().zip(colours) {
                let point = |(ms, value): (usize, &f64)| {
                    let x = 100.0 + (WIDTH - 110.0) * ms as f64 / SHOWN_MS as f64;
                    let y = top + 8.0 + (HEIGHT - 16.0) * (high - value) / (high - low);
                    format!("{x:.1},{y:.1}")
                };
                // Every second update is enough for the eye.
                let points: Vec<String> =
                    line.iter().enumerate().take(SHOWN_MS).step_by(2).map(point).collect();
                writeln!(
                    svg,
                    "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" points=\"{}\"/>",
                    points.join(" ")
                )
                .unwrap();
            }
        }
        svg + "</svg>\n"
    }
}
