//! An action chunk and the way it leaves the control thread: filled by the cycle, taken by an edge.
//!
//! The way out is a mailbox like the ways in: a consumer that sleeps finds the newest chunk, never a queue of old
//! ones, and the cycle never waits for it.

use std::time::{Duration, Instant};

use super::mailbox::{Receiver, Sender, mailbox};
use super::wake::Wake;
use crate::observe::messages::Stamp;

/// Joint positions to command, point by point.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Newest stamp of the frame set: point `i` is for `observation + i / control_hz`.
    pub observation: Stamp,
    /// Stamp of the joint state it started from.
    pub joint_stamp: Stamp,
    /// Counts chunks from 0; a gap is a chunk that nobody took in time.
    pub sequence: u64,
    pub horizon: usize,
    pub joints: usize,
    /// `[horizon, joints]`, in the units of the joint states.
    pub actions: Vec<f64>,
    pub control_hz: f64,
}

impl Chunk {
    fn empty(horizon: usize, joints: usize, control_hz: f64) -> Self {
        Self {
            observation: Stamp(0),
            joint_stamp: Stamp(0),
            sequence: 0,
            horizon,
            joints,
            actions: vec![0.0; horizon * joints],
            control_hz,
        }
    }

    /// Joint positions of each point.
    pub fn points(&self) -> impl Iterator<Item = &[f64]> {
        self.actions.chunks_exact(self.joints)
    }
}

/// Chunks of `horizon` points for `joints` joints: the cycle's end and the consumer's.
pub fn output(horizon: usize, joints: usize, control_hz: f64) -> (Sender<Chunk>, ChunkOutput) {
    let wake = Wake::default();
    let (sender, receiver) = mailbox(&Chunk::empty(horizon, joints, control_hz), &wake);
    (sender, ChunkOutput { receiver, wake })
}

/// Where an edge gets the chunks from. One thread waits here.
#[derive(Debug)]
pub struct ChunkOutput {
    receiver: Receiver<Chunk>,
    wake: Wake,
}

impl ChunkOutput {
    /// The newest chunk, if one has come since the last.
    pub fn try_recv(&mut self) -> Option<Chunk> {
        if self.receiver.take() {
            self.receiver.held().cloned()
        } else {
            None
        }
    }

    /// The newest chunk, waiting for one up to `timeout`.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Chunk> {
        // A chunk that comes just before the first wait wakes nobody, so no wait is long.
        const SLICE: Duration = Duration::from_millis(5);
        let started = Instant::now();
        loop {
            if let Some(chunk) = self.try_recv() {
                return Some(chunk);
            }
            let left = timeout.checked_sub(started.elapsed())?;
            self.wake.wait(left.min(SLICE));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn send(sender: &mut Sender<Chunk>, sequence: u64) -> bool {
        sender.buffer().sequence = sequence;
        sender.send()
    }

    #[test]
    fn a_consumer_that_sleeps_finds_the_newest_chunk() {
        let (mut sender, mut output) = output(2, 3, 50.0);
        let lost = (0..10).filter(|&sequence| send(&mut sender, sequence)).count();
        assert_eq!(lost, 9);
        assert_eq!(output.try_recv().map(|chunk| chunk.sequence), Some(9));
        assert_eq!(output.try_recv(), None);
    }

    #[test]
    fn a_waiting_consumer_gets_every_chunk() {
        let (mut sender, mut output) = output(2, 3, 50.0);
        let consumer = thread::spawn(move || {
            let mut received = Vec::new();
            while let Some(chunk) = output.recv_timeout(Duration::from_secs(5)) {
                received.push(chunk.sequence);
                if chunk.sequence == 19 {
                    break;
                }
            }
            received
        });
        for sequence in 0..20 {
            while !sender.taken() {
                thread::yield_now();
            }
            send(&mut sender, sequence);
        }
        assert_eq!(consumer.join().unwrap(), Vec::from_iter(0..20));
    }

    #[test]
    fn waiting_ends_with_the_timeout() {
        let (_sender, mut output) = output(2, 3, 50.0);
        assert_eq!(output.recv_timeout(Duration::from_millis(2)), None);
    }

    #[test]
    fn a_chunk_has_a_row_of_joints_per_point() {
        let mut chunk = Chunk::empty(2, 3, 50.0);
        chunk.actions = vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(
            chunk.points().collect::<Vec<_>>(),
            [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
        );
    }
}
