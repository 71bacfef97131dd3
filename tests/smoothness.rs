//! How smoothly joints move by what is sent, with and without `interpolation: spline`: the known policy's chunks, blended over 100 ms,
//! a chunk every 100 ms. Prints what docs/ros2.md has:
//!
//!     cargo test --test smoothness -- --nocapture

#[path = "support/executed.rs"]
mod executed;
#[path = "support/known_policy.rs"]
mod known_policy;

use executed::{Executed, execute};
use pi0_node::settings::{ChunkJoin, Interpolation};

/// The camera's picture is 30 ms old when its chunk leaves.
fn roughness(interpolation: Interpolation) -> Executed {
    execute(interpolation, ChunkJoin::Blend { blend_ms: 100.0 }, (100, 30), 3)
}

#[test]
fn a_spline_moves_joints_without_the_steps_of_velocity_that_straight_lines_have() {
    let (linear, spline) = (roughness(Interpolation::Linear), roughness(Interpolation::Spline));
    println!("largest of any arm joint      straight lines          spline");
    for (name, linear, spline) in [
        ("velocity (rad/s)", linear.speed, spline.speed),
        ("step of velocity (rad/s)", linear.velocity_step, spline.velocity_step),
        ("acceleration (rad/s^2)", linear.acceleration, spline.acceleration),
        ("jerk (rad/s^3)", linear.jerk, spline.jerk),
    ] {
        println!("{name:<26} {linear:>17.3} {spline:>15.3}");
    }
    // By how much depends on the policy's points; that a line's corners are gone does not.
    assert!(linear.velocity_step > 0.1, "{}", linear.velocity_step);
    assert!(spline.velocity_step < linear.velocity_step / 4.0, "{} beside {}", spline.jerk, linear.jerk);
    assert!(spline.jerk < linear.jerk / 4.0, "{} beside {}", spline.jerk, linear.jerk);
}
