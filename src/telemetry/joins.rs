//! How chunks follow each other: what the last joins were like. Written by the control thread and by whoever sends the chunks;
//! nobody waits for anybody.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::metrics::Counter;

/// The last joins; positions are in the robot's units, the largest of all joints.
#[derive(Debug, Default)]
pub struct Joins {
    /// Chunks that were led by what was sent before.
    pub led: Counter,
    /// Those of them that left later than they assumed: between the points that led them and their first one the robot moved on.
    pub led_late: Counter,
    assumed_delay_ms: Number,
    delay_ms: Number,
    mismatch: Number,
    jump: Number,
    joined_jump: Number,
}

impl Joins {
    /// A chunk was made that was to leave after so long, and differs by so much from what was sent until then.
    pub fn led(&self, assumed_delay_ms: f64, mismatch: f64) {
        self.led.add_one();
        self.assumed_delay_ms.set(assumed_delay_ms);
        self.mismatch.set(mismatch);
    }

    /// A chunk was to leave so long after its observation.
    pub fn delayed(&self, delay_ms: f64) {
        self.delay_ms.set(delay_ms);
    }

    /// A chunk followed another: how far it was from where the joints were to be at that moment, and how far once it was joined.
    pub fn joined(&self, jump: f64, joined_jump: f64) {
        self.jump.set(jump);
        self.joined_jump.set(joined_jump);
    }

    pub fn snapshot(&self) -> JoinSnapshot {
        JoinSnapshot {
            led: self.led.get(),
            led_late: self.led_late.get(),
            assumed_delay_ms: self.assumed_delay_ms.get(),
            delay_ms: self.delay_ms.get(),
            mismatch: self.mismatch.get(),
            jump: self.jump.get(),
            joined_jump: self.joined_jump.get(),
        }
    }
}

/// How the last chunks followed each other, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JoinSnapshot {
    pub led: u64,
    /// Those of them that left later than they assumed.
    pub led_late: u64,
    /// From observation to leaving, as the last chunk that was led had to assume.
    pub assumed_delay_ms: f64,
    /// And what the last chunk took.
    pub delay_ms: f64,
    /// The largest distance of its first points, up to that delay, from what was sent for their times.
    pub mismatch: f64,
    /// How far the last chunk was from where the joints were to be at the moment when it left.
    pub jump: f64,
    /// The same once it was joined.
    pub joined_jump: f64,
}

/// An f64 that one thread writes and others read.
#[derive(Debug, Default)]
struct Number(AtomicU64);

impl Number {
    fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }
}
