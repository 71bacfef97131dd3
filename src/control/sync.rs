//! Frame sets: one frame per camera, taken at about the same time. Called by the cycle.
//!
//! A set is complete when every camera has a frame newer than in the last set and all stamps lie within the
//! tolerance. Cameras take their newest frame, with one exception: one that is ahead of another waits for it, so that
//! a camera that always comes late still finds its partners.

use super::mailbox::Receiver;
use crate::observe::messages::Stamp;

/// A stamp that lies further back than this is not an old frame but a clock that was set back (a simulation or a bag
/// that starts again).
const CLOCK_RESET_MS: f64 = 1000.0;

/// An image as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub stamp: Stamp,
    /// `[3, height, width]` in [-1, 1].
    pub pixels: Vec<f32>,
}

/// What a look at the cameras found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Look {
    /// Nothing has come, or some camera has no new frame yet.
    Waiting,
    /// Every camera has a new frame, but they are too far apart.
    Apart { spread_ms: f64 },
    /// [`FrameSync::frames`] is a new frame set.
    Complete,
}

/// Matches the frames of all cameras.
#[derive(Debug)]
pub struct FrameSync {
    cameras: Vec<Camera>,
    tolerance_ms: f64,
}

#[derive(Debug)]
struct Camera {
    mailbox: Receiver<Frame>,
    /// Stamp of this camera's frame in the last set.
    used: Option<Stamp>,
}

impl Camera {
    /// Stamp of the held frame if it may go into the next set.
    fn fresh(&self) -> Option<Stamp> {
        let stamp = self.mailbox.held()?.stamp;
        let newer = |used: Stamp| stamp > used || used.ms_since(stamp) > CLOCK_RESET_MS;
        self.used.is_none_or(newer).then_some(stamp)
    }
}

impl FrameSync {
    pub fn new(mailboxes: Vec<Receiver<Frame>>, tolerance_ms: f64) -> Self {
        let cameras = mailboxes.into_iter();
        Self { cameras: cameras.map(|mailbox| Camera { mailbox, used: None }).collect(), tolerance_ms }
    }

    /// Takes what has come and tells whether it makes a set.
    pub fn look(&mut self) -> Look {
        // A camera that catches up may leave another one behind, hence the repetition; its bound keeps cameras that
        // never pause from holding the cycle here.
        let mut look = Look::Waiting;
        for _ in 0..=self.cameras.len() {
            if !self.take_frames() {
                break;
            }
            look = self.compare();
            if look == Look::Complete {
                self.cameras.iter_mut().for_each(|camera| camera.used = camera.fresh());
                break;
            }
        }
        look
    }

    /// The frames held, camera by camera: after [`Look::Complete`], the set.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.cameras.iter().filter_map(|camera| camera.mailbox.held())
    }

    /// The newest stamp of the frames held.
    pub fn newest(&self) -> Option<Stamp> {
        self.frames().map(|frame| frame.stamp).max()
    }

    /// Every camera takes its newest frame, but those that are ahead of another keep theirs. False when nothing came.
    fn take_frames(&mut self) -> bool {
        // As it was before anyone takes, so that the order of the cameras does not matter.
        let oldest = self.cameras.iter().filter_map(Camera::fresh).min();
        let mut any = false;
        for camera in &mut self.cameras {
            let ahead_ms = match (camera.fresh(), oldest) {
                (Some(stamp), Some(oldest)) => stamp.ms_since(oldest),
                _ => 0.0,
            };
            if ahead_ms <= self.tolerance_ms || ahead_ms > CLOCK_RESET_MS {
                any |= camera.mailbox.take();
            }
        }
        any
    }

    /// Compares the stamps of the frames held.
    fn compare(&self) -> Look {
        let mut range: Option<(Stamp, Stamp)> = None;
        for camera in &self.cameras {
            let Some(stamp) = camera.fresh() else {
                return Look::Waiting;
            };
            let (oldest, newest) = range.unwrap_or((stamp, stamp));
            range = Some((stamp.min(oldest), stamp.max(newest)));
        }
        match range.map(|(oldest, newest)| newest.ms_since(oldest)) {
            None => Look::Waiting,
            Some(spread_ms) if spread_ms > self.tolerance_ms => Look::Apart { spread_ms },
            Some(_) => Look::Complete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::mailbox::{Sender, mailbox};
    use crate::control::wake::Wake;

    const TOLERANCE_MS: f64 = 10.0;

    fn cameras<const N: usize>() -> ([Sender<Frame>; N], FrameSync) {
        let mut receivers = Vec::new();
        let senders = [(); N].map(|()| {
            let empty = Frame { stamp: Stamp(0), pixels: Vec::new() };
            let (sender, receiver) = mailbox(&empty, &Wake::default());
            receivers.push(receiver);
            sender
        });
        (senders, FrameSync::new(receivers, TOLERANCE_MS))
    }

    fn put(camera: &mut Sender<Frame>, ms: i64) {
        camera.buffer().stamp = Stamp(ms * 1_000_000);
        camera.send();
    }

    fn stamps_ms(sync: &FrameSync) -> Vec<i64> {
        sync.frames().map(|frame| frame.stamp.0 / 1_000_000).collect()
    }

    #[test]
    fn a_set_is_complete_when_every_camera_has_a_frame() {
        let ([mut a, mut b], mut sync) = cameras();
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut a, 100);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut b, 110);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [100, 110]);
        assert_eq!(sync.newest(), Some(Stamp(110_000_000)));
    }

    #[test]
    fn a_frame_is_used_once_even_if_it_is_sent_twice() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut b, 100);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut a, 100);
        put(&mut b, 105);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut a, 105);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [105, 105]);
    }

    #[test]
    fn the_newest_frame_of_a_camera_wins() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut a, 104);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut a, 108);
        put(&mut b, 110);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [108, 110]);
    }

    #[test]
    fn the_newest_frame_wins_wherever_its_camera_stands() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut b, 104);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut b, 108);
        put(&mut a, 110);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [110, 108]);
    }

    #[test]
    fn frames_too_far_apart_are_no_set() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut b, 111);
        assert_eq!(sync.look(), Look::Apart { spread_ms: 11.0 });
        put(&mut a, 120);
        assert_eq!(sync.look(), Look::Complete);
    }

    #[test]
    fn a_camera_that_is_always_late_still_finds_its_partners() {
        let ([mut a, mut b], mut sync) = cameras();
        let mut sets = Vec::new();
        for ms in (100..2000).step_by(100) {
            put(&mut a, ms);
            sync.look();
            // More than one period late.
            put(&mut b, ms - 100);
            if sync.look() == Look::Complete {
                sets.push(stamps_ms(&sync));
            }
        }
        assert!(sets.len() >= 6, "{sets:?}");
        assert!(sets.iter().all(|set| set[0] == set[1]), "{sets:?}");
    }

    #[test]
    fn after_an_outage_the_cameras_find_together_again() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut b, 100);
        for ms in (100..5000).step_by(100) {
            put(&mut a, ms + 50);
            assert_ne!(sync.look(), Look::Complete);
        }
        put(&mut a, 5000);
        put(&mut b, 5000);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [5000, 5000]);
    }

    #[test]
    fn a_clock_that_was_set_back_starts_over() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 60_000);
        put(&mut b, 60_000);
        assert_eq!(sync.look(), Look::Complete);
        put(&mut b, 60_100);
        assert_eq!(sync.look(), Look::Waiting);
        put(&mut a, 100);
        put(&mut b, 100);
        assert_eq!(sync.look(), Look::Complete);
        assert_eq!(stamps_ms(&sync), [100, 100]);
    }

    #[test]
    fn a_frame_from_before_the_last_set_is_not_new() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 500);
        put(&mut b, 500);
        assert_eq!(sync.look(), Look::Complete);
        put(&mut a, 400);
        put(&mut b, 400);
        assert_eq!(sync.look(), Look::Waiting);
    }
}
