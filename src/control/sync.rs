//! Frame sets: one frame per camera, taken at about the same time. Called by the cycle.
//!
//! A set is complete when every camera has a frame newer than in the last set and all stamps lie within the
//! tolerance. Cameras take their newest frame, with one exception: one that is ahead of another waits for it, so that
//! a camera that always comes late still finds its partners.
//!
//! A camera that may be missing is waited for like any other while it gives images; when its newest is too old, sets go
//! without it until it gives images again.

use std::time::Instant;

use super::mailbox::Receiver;
use super::witness::Arrival;
use crate::observe::messages::Stamp;
use crate::settings::MissingCamera;

/// A stamp that lies further back than this is not an old frame but a clock that was set back (a simulation or a bag
/// that starts again).
const CLOCK_RESET_MS: f64 = 1000.0;

/// An image as the model sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    pub stamp: Stamp,
    /// When the edge received it, by the clock that the cycle is given.
    pub received: Stamp,
    /// When its decoding began and ended.
    pub decoding: (Instant, Instant),
    /// `[3, height, width]` in [-1, 1].
    pub pixels: Vec<f32>,
}

impl Frame {
    /// Room for a frame of so many elements.
    pub fn empty(elements: usize) -> Self {
        let now = Instant::now();
        Self { stamp: Stamp(0), received: Stamp(0), decoding: (now, now), pixels: vec![0.0; elements] }
    }

    pub fn arrival(&self) -> Arrival {
        Arrival { stamp: self.stamp, received: self.received }
    }
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
    /// A camera whose newest frame is older is missing.
    missing_after_ms: f64,
}

#[derive(Debug)]
struct Camera {
    mailbox: Receiver<Frame>,
    policy: MissingCamera,
    /// Stamp of this camera's frame in the last set it was in.
    used: Option<Stamp>,
    /// Whether sets go without it now.
    missing: bool,
}

impl Camera {
    /// Stamp of the held frame if it may go into the next set.
    fn fresh(&self) -> Option<Stamp> {
        let stamp = self.mailbox.held()?.stamp;
        let newer = |used: Stamp| stamp > used || used.ms_since(stamp) > CLOCK_RESET_MS;
        (!self.missing && self.used.is_none_or(newer)).then_some(stamp)
    }

    /// Looks whether it gives images that are young enough, where sets may go without it.
    fn look_after(&mut self, now: Stamp, missing_after_ms: f64) {
        if self.policy == MissingCamera::Mask {
            let age_ms = |frame: &Frame| now.ms_since(frame.stamp).abs();
            self.missing = self.mailbox.held().is_none_or(|frame| age_ms(frame) > missing_after_ms);
        }
    }
}

impl FrameSync {
    /// Cameras with what happens while they are missing, that is, when their newest frame is older than
    /// `missing_after_ms`.
    pub fn new(
        cameras: impl IntoIterator<Item = (Receiver<Frame>, MissingCamera)>,
        tolerance_ms: f64,
        missing_after_ms: f64,
    ) -> Self {
        let camera = |(mailbox, policy)| Camera { mailbox, policy, used: None, missing: false };
        Self { cameras: cameras.into_iter().map(camera).collect(), tolerance_ms, missing_after_ms }
    }

    /// From now on these hold, as in [`Self::new`].
    pub fn set_times(&mut self, tolerance_ms: f64, missing_after_ms: f64) {
        (self.tolerance_ms, self.missing_after_ms) = (tolerance_ms, missing_after_ms);
    }

    /// Takes what has come and tells whether it makes a set. `now` is by the clock of the stamps.
    pub fn look(&mut self, now: Stamp) -> Look {
        // A camera that catches up may leave another one behind, hence the repetition; its bound keeps cameras that
        // never pause from holding the cycle here.
        let mut look = Look::Waiting;
        for repetition in 0..=self.cameras.len() {
            let took = self.take_frames();
            // A camera that goes missing may complete a set without any new frame.
            let changed = self.look_for_missing(now);
            if !took && (!changed || repetition > 0) {
                break;
            }
            look = self.compare();
            if look == Look::Complete {
                self.cameras.iter_mut().for_each(|camera| camera.used = camera.fresh().or(camera.used));
                break;
            }
        }
        look
    }

    /// Takes what has come as a set that was made before, whatever the times say. False unless it is that set.
    pub fn repeat(&mut self, set: &[Option<Arrival>]) -> bool {
        for (camera, arrival) in self.cameras.iter_mut().zip(set) {
            camera.mailbox.take();
            camera.missing = arrival.is_none();
        }
        self.frames().map(|frame| frame.map(Frame::arrival)).eq(set.iter().copied())
    }

    /// Looks which cameras are missing. True when that has changed.
    fn look_for_missing(&mut self, now: Stamp) -> bool {
        let mut changed = false;
        for camera in &mut self.cameras {
            let before = camera.missing;
            camera.look_after(now, self.missing_after_ms);
            changed |= camera.missing != before;
        }
        changed
    }

    /// The set after [`Look::Complete`], camera by camera; none for those that are missing.
    pub fn frames(&self) -> impl Iterator<Item = Option<&Frame>> {
        self.cameras.iter().map(|camera| camera.mailbox.held().filter(|_| !camera.missing))
    }

    /// The oldest and the newest stamp of the frames held.
    pub fn span(&self) -> Option<(Stamp, Stamp)> {
        let stamps = || self.frames().flatten().map(|frame| frame.stamp);
        Some((stamps().min()?, stamps().max()?))
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
        for camera in self.cameras.iter().filter(|camera| !camera.missing) {
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
    const MISSING_AFTER_MS: f64 = 300.0;

    fn cameras<const N: usize>() -> ([Sender<Frame>; N], FrameSync) {
        cameras_with([MissingCamera::Wait; N])
    }

    fn cameras_with<const N: usize>(policies: [MissingCamera; N]) -> ([Sender<Frame>; N], FrameSync) {
        let mut receivers = Vec::new();
        let senders = policies.map(|policy| {
            let (sender, receiver) = mailbox(&Frame::empty(0), &Wake::default());
            receivers.push((receiver, policy));
            sender
        });
        (senders, FrameSync::new(receivers, TOLERANCE_MS, MISSING_AFTER_MS))
    }

    fn put(camera: &mut Sender<Frame>, ms: i64) {
        camera.buffer().stamp = Stamp(ms * 1_000_000);
        camera.send();
    }

    /// A look at a time that does not matter, because no camera may be missing.
    fn look(sync: &mut FrameSync) -> Look {
        sync.look(Stamp(0))
    }

    fn look_at(sync: &mut FrameSync, ms: i64) -> Look {
        sync.look(Stamp(ms * 1_000_000))
    }

    fn stamps_ms(sync: &FrameSync) -> Vec<i64> {
        sync.frames().flatten().map(|frame| frame.stamp.0 / 1_000_000).collect()
    }

    #[test]
    fn a_set_is_complete_when_every_camera_has_a_frame() {
        let ([mut a, mut b], mut sync) = cameras();
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut a, 100);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut b, 110);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [100, 110]);
        assert_eq!(sync.span(), Some((Stamp(100_000_000), Stamp(110_000_000))));
    }

    #[test]
    fn a_frame_is_used_once_even_if_it_is_sent_twice() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut b, 100);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut a, 100);
        put(&mut b, 105);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut a, 105);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [105, 105]);
    }

    #[test]
    fn the_newest_frame_of_a_camera_wins() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut a, 104);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut a, 108);
        put(&mut b, 110);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [108, 110]);
    }

    #[test]
    fn the_newest_frame_wins_wherever_its_camera_stands() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut b, 104);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut b, 108);
        put(&mut a, 110);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [110, 108]);
    }

    #[test]
    fn frames_too_far_apart_are_no_set() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 100);
        put(&mut b, 111);
        assert_eq!(look(&mut sync), Look::Apart { spread_ms: 11.0 });
        put(&mut a, 120);
        assert_eq!(look(&mut sync), Look::Complete);
    }

    #[test]
    fn a_camera_that_is_always_late_still_finds_its_partners() {
        let ([mut a, mut b], mut sync) = cameras();
        let mut sets = Vec::new();
        for ms in (100..2000).step_by(100) {
            put(&mut a, ms);
            look(&mut sync);
            // More than one period late.
            put(&mut b, ms - 100);
            if look(&mut sync) == Look::Complete {
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
            assert_ne!(look(&mut sync), Look::Complete);
        }
        put(&mut a, 5000);
        put(&mut b, 5000);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [5000, 5000]);
    }

    #[test]
    fn a_clock_that_was_set_back_starts_over() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 60_000);
        put(&mut b, 60_000);
        assert_eq!(look(&mut sync), Look::Complete);
        put(&mut b, 60_100);
        assert_eq!(look(&mut sync), Look::Waiting);
        put(&mut a, 100);
        put(&mut b, 100);
        assert_eq!(look(&mut sync), Look::Complete);
        assert_eq!(stamps_ms(&sync), [100, 100]);
    }

    #[test]
    fn a_frame_from_before_the_last_set_is_not_new() {
        let ([mut a, mut b], mut sync) = cameras();
        put(&mut a, 500);
        put(&mut b, 500);
        assert_eq!(look(&mut sync), Look::Complete);
        put(&mut a, 400);
        put(&mut b, 400);
        assert_eq!(look(&mut sync), Look::Waiting);
    }

    #[test]
    fn a_camera_that_may_be_missing_is_waited_for_while_it_gives_images() {
        let ([mut a, mut b], mut sync) = cameras_with([MissingCamera::Wait, MissingCamera::Mask]);
        put(&mut a, 100);
        put(&mut b, 100);
        assert_eq!(look_at(&mut sync, 105), Look::Complete);
        put(&mut a, 200);
        assert_eq!(look_at(&mut sync, 205), Look::Waiting);
        put(&mut b, 200);
        assert_eq!(look_at(&mut sync, 210), Look::Complete);
        assert_eq!(stamps_ms(&sync), [200, 200]);
    }

    #[test]
    fn a_camera_that_went_missing_is_left_out_until_it_returns() {
        let ([mut a, mut b], mut sync) = cameras_with([MissingCamera::Wait, MissingCamera::Mask]);
        put(&mut a, 100);
        assert_eq!(look_at(&mut sync, 100), Look::Complete);
        assert_eq!(sync.frames().map(|frame| frame.is_some()).collect::<Vec<_>>(), [true, false]);
        put(&mut a, 200);
        put(&mut b, 200);
        assert_eq!(look_at(&mut sync, 200), Look::Complete);
        assert_eq!(stamps_ms(&sync), [200, 200]);
        // Now b stops.
        put(&mut a, 450);
        assert_eq!(look_at(&mut sync, 450), Look::Waiting);
        // No frame completes this set, but the time that b was waited for is over.
        assert_eq!(look_at(&mut sync, 501), Look::Complete);
        assert_eq!(stamps_ms(&sync), [450]);
        put(&mut b, 550);
        put(&mut a, 550);
        assert_eq!(look_at(&mut sync, 550), Look::Complete);
        assert_eq!(stamps_ms(&sync), [550, 550]);
    }

    #[test]
    fn without_any_camera_there_is_no_set() {
        let ([mut a, mut b], mut sync) = cameras_with([MissingCamera::Mask; 2]);
        assert_eq!(look_at(&mut sync, 100), Look::Waiting);
        put(&mut a, 100);
        assert_eq!(look_at(&mut sync, 900), Look::Waiting);
        put(&mut b, 900);
        assert_eq!(look_at(&mut sync, 900), Look::Complete);
        assert_eq!(stamps_ms(&sync), [900]);
    }
}
