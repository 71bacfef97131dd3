//! What a new chunk continues: what was really sent, at the times of its own points. Made by the cycle before each act, of what the
//! output tells it; a replay of a recording has it from there.
//!
//! Only what was sent counts, limits and joins included, and only as far as it goes: behind its end there is no target. Where
//! the robot does not follow this node's last chunk (a hold, a new prompt, a clock that was set, a device that was rebuilt), or not
//! yet, nothing is continued.

use super::mailbox::Receiver;
use super::motion::Motion;
use crate::observe::messages::Stamp;
use crate::observe::{JointUnits, RelativeActions};
use crate::policy::{Continuation, Schedule};
use crate::settings::{ChunkJoin, Rtc, Settings};

/// What the output tells the cycle.
#[derive(Clone, Debug)]
pub(super) struct Underway {
    /// What was sent last; none before the first chunk.
    pub sent: bool,
    pub motion: Motion,
    /// What was sent before that, for times at which the last had not begun.
    pub before: Motion,
    /// How long after its observation a chunk is likely to leave; none as long as nobody knows.
    pub delay_ms: Option<f64>,
}

impl Underway {
    pub fn room(motion: &Motion) -> Self {
        Self { sent: false, motion: motion.clone(), before: motion.clone(), delay_ms: None }
    }

    /// Where the joints are to be at a time by what was sent.
    fn positions_at(&self, time: Stamp, positions: &mut [f64]) {
        let motion = if time < self.motion.start() { &self.before } else { &self.motion };
        motion.positions_at(time, positions);
    }
}

/// What leads one chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guide {
    /// Points that the robot has come to when the chunk leaves, as far as one knew.
    pub delay: usize,
    /// Points that count; none where the chunk continues nothing.
    pub until: usize,
    /// How they count between the two.
    pub schedule: Schedule,
    /// `[points, joints]`: where the joints are to be at each point by what was sent, in the robot's units; what lies behind
    /// `until` means nothing.
    pub positions: Vec<f64>,
}

impl Guide {
    /// Room for so many points.
    pub(super) fn room(points: usize, joints: usize) -> Self {
        Self { delay: 0, until: 0, schedule: Schedule::default(), positions: vec![0.0; points * joints] }
    }

    /// Takes over another one of the same size without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        (self.delay, self.until, self.schedule) = (other.delay, other.until, other.schedule);
        self.positions.copy_from_slice(&other.positions);
    }

    /// Whether it leads anything.
    pub fn leads(&self) -> bool {
        self.until > 0
    }

    /// The points that count `[until, joints]`.
    pub fn points(&self, joints: usize) -> &[f64] {
        &self.positions[..self.until * joints]
    }

    /// Writes how much each point counts.
    pub(super) fn write_weights(&self, continuation: Continuation, weights: &mut [f32]) {
        match continuation {
            Continuation::Guided { .. } => self.schedule.write(self.delay, self.until, weights),
            Continuation::Given { .. } => Schedule::Zeros.write(self.until, self.until, weights),
            Continuation::Free => weights.fill(0.0),
        }
    }

    /// The largest distance of `actions` `[points, joints]` from it, among the points that the robot has come to when they leave.
    pub(super) fn mismatch(&self, actions: &[f64], joints: usize) -> f64 {
        let promised = &self.positions[..self.delay.min(self.until) * joints];
        promised.iter().zip(actions).map(|(promised, made)| (promised - made).abs()).fold(0.0, f64::max)
    }
}

/// What leads the cycle's chunks.
pub(super) struct Led {
    /// The next one's.
    pub guide: Guide,
    /// Its points in the model's units.
    actions: Vec<f64>,
    /// What was sent.
    underway: Receiver<Underway>,
    /// The first chunk that may be continued: what was sent before is of another task, or the robot does not follow it.
    pub fresh_from: u64,
}

impl Led {
    pub fn new(room: Guide, underway: Receiver<Underway>) -> Self {
        Self { actions: room.positions.clone(), guide: room, underway, fresh_from: 0 }
    }

    /// Whether the chunk before number `sequence` is to be continued and has not been sent: it may be on its way out.
    pub fn is_behind(&mut self, lead: &Lead, continuation: Continuation, sequence: u64) -> bool {
        self.underway.take();
        let Underway { sent, motion, .. } = self.underway.value();
        lead.is_on(continuation) && sequence > self.fresh_from && !(*sent && motion.sequence + 1 >= sequence)
    }

    /// Finds what the chunk continues whose first point is at `times.0`, by what was sent before `times.1`.
    pub fn find(&mut self, lead: &Lead, continuation: Continuation, times: (Stamp, Stamp)) {
        self.underway.take();
        lead.guide(self.underway.value(), continuation, times, self.fresh_from, &mut self.guide);
    }

    /// The guide's points as the policy's actions `[until, joints]`, from the state that the model sees now.
    pub fn actions(&mut self, state: &[f64], units: &JointUnits, relative: &RelativeActions) -> &[f64] {
        let joints = state.len().max(1);
        let actions = &mut self.actions[..self.guide.until * state.len()];
        let points = self.guide.positions.chunks_exact(joints);
        for (robot, model) in points.zip(actions.chunks_exact_mut(joints)) {
            units.to_model(robot, model);
        }
        relative.to_actions(state, actions);
        actions
    }
}

/// By which rules chunks continue the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lead {
    join: ChunkJoin,
    rtc: Rtc,
    pub control_hz: f64,
}

impl Lead {
    pub fn new(settings: &Settings) -> Self {
        Self { join: settings.chunk_join, rtc: settings.rtc, control_hz: settings.control_hz }
    }

    /// The same way of joining; everything else may differ.
    pub fn joins_as(&self, other: &Self) -> bool {
        std::mem::discriminant(&self.join) == std::mem::discriminant(&other.join)
    }

    /// Whether chunks of a model that was compiled for `continuation` are led.
    fn is_on(&self, continuation: Continuation) -> bool {
        match continuation {
            Continuation::Free => false,
            Continuation::Guided { .. } => {
                matches!(self.join, ChunkJoin::Guided { .. } | ChunkJoin::Auto { .. })
            }
            Continuation::Given { .. } => {
                matches!(self.join, ChunkJoin::Trained { .. } | ChunkJoin::Auto { .. })
            }
        }
    }

    /// Makes the guide of the chunk whose first point is at `observation`, of what was sent before `now`. `fresh_from` is the
    /// first chunk that may be continued.
    pub fn guide(
        &self,
        underway: &Underway,
        continuation: Continuation,
        (observation, now): (Stamp, Stamp),
        fresh_from: u64,
        guide: &mut Guide,
    ) {
        (guide.delay, guide.until, guide.schedule) = (0, 0, self.rtc.schedule);
        let Underway { sent, motion, before, delay_ms } = underway;
        let is_followed = *sent
            && !motion.hold
            && motion.sequence >= fresh_from
            && now >= motion.start()
            // A time that nobody remembers: the clock was set back.
            && observation >= before.start().min(motion.start());
        if !is_followed || !self.is_on(continuation) {
            return;
        }
        let joints = motion.joints();
        let points = guide.positions.len() / joints.max(1);
        let time_of = |point: usize| {
            Stamp(observation.0.saturating_add((point as f64 / self.control_hz * 1e9).round() as i64))
        };
        let sent = (0..points).take_while(|&point| time_of(point) <= motion.end()).count();
        let delay_ms = self.rtc.delay_ms.or(*delay_ms).unwrap_or(0.0);
        let delay = ((delay_ms / 1e3 * self.control_hz).ceil().max(0.0) as usize).min(sent);
        (guide.delay, guide.until) = match continuation {
            // Behind a long delay there must be room for the weights to fall.
            Continuation::Guided { .. } => (delay, self.rtc.horizon.max(2 * delay).min(sent)),
            Continuation::Given { most } => (delay.min(most), delay.min(most)),
            Continuation::Free => (0, 0),
        };
        for (point, positions) in
            guide.positions.chunks_exact_mut(joints.max(1)).take(guide.until).enumerate()
        {
            underway.positions_at(time_of(point), positions);
        }
    }
}

/// How long after their observations chunks left lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays {
    /// Milliseconds, the oldest overwritten.
    recent: [f64; Self::KEPT],
    sorted: [f64; Self::KEPT],
    count: usize,
    last: Option<f64>,
}

impl Delays {
    const KEPT: usize = 32;
    /// So many of a hundred chunks leave earlier than is expected.
    const QUANTILE: f64 = 0.9;

    /// A chunk left, or would have. The first one says nothing about those that follow: caches were cold.
    pub fn record(&mut self, delay_ms: f64) {
        if self.last.is_some() {
            self.recent[self.count % Self::KEPT] = delay_ms;
            self.count += 1;
        }
        self.last = Some(delay_ms);
    }

    /// What to expect: as long as most of the recent ones took, and as long as the last one.
    pub fn expected_ms(&mut self) -> Option<f64> {
        let last = self.last?;
        let known = self.count.min(Self::KEPT);
        if known == 0 {
            return Some(last);
        }
        let sorted = &mut self.sorted[..known];
        sorted.copy_from_slice(&self.recent[..known]);
        sorted.sort_unstable_by(f64::total_cmp);
        let index = ((known as f64 * Self::QUANTILE).ceil() as usize).clamp(1, known) - 1;
        Some(sorted[index].max(last))
    }
}

#[cfg(test)]
mod tests {
    use super::super::chunk::Chunk;
    use super::super::limits::Limits;
    use super::super::sent::Sent;
    use super::*;
    use crate::settings::{Interpolation, LimitSettings};

    const HZ: f64 = 50.0;
    const POINTS: usize = 20;
    const GUIDE: ChunkJoin = ChunkJoin::Guided { blend_ms: 100.0 };
    const GUIDED: Continuation = Continuation::Guided { most: 10.0 };

    fn at_ms(ms: i64) -> Stamp {
        Stamp(ms * 1_000_000)
    }

    /// A chunk of one joint that is observed, and sent, at these times and moves 1 a second from `from`.
    fn send(sent: &mut Sent, sequence: u64, observation_ms: i64, sent_ms: i64, from: f64) {
        let mut chunk = Chunk::new(POINTS, 1, HZ);
        (chunk.observation, chunk.sequence) = (at_ms(observation_ms), sequence);
        chunk.actions.iter_mut().enumerate().for_each(|(point, action)| *action = from + point as f64 / HZ);
        chunk.first = chunk.first_at(at_ms(sent_ms));
        let limits = Limits::new(&LimitSettings::default(), &["a".to_owned()]).unwrap();
        let mut motion = Motion::room(&chunk);
        sent.begin(&chunk, at_ms(sent_ms), Interpolation::Linear, &limits, &mut motion);
        sent.set(&chunk, &motion, at_ms(sent_ms));
    }

    fn underway(sent: &Sent, delay_ms: f64) -> Underway {
        Underway {
            sent: true,
            motion: sent.motion().clone(),
            before: sent.before().clone(),
            delay_ms: Some(delay_ms),
        }
    }

    fn lead(join: ChunkJoin, horizon: usize) -> Lead {
        let rtc = Rtc { horizon, schedule: Schedule::Linear, most_guidance: 10.0, delay_ms: None };
        Lead { join, rtc, control_hz: HZ }
    }

    fn guide(underway: &Underway, lead: Lead, continuation: Continuation, observation_ms: i64) -> Guide {
        let mut guide = Guide::room(POINTS, 1);
        let times = (at_ms(observation_ms), at_ms(observation_ms + 50));
        lead.guide(underway, continuation, times, 0, &mut guide);
        guide
    }

    fn empty() -> Sent {
        Sent::new(&Chunk::new(POINTS, 1, HZ))
    }

    #[test]
    fn a_guide_is_what_was_sent_at_the_new_chunks_times() {
        let mut sent = empty();
        send(&mut sent, 0, 0, 40, 0.0);
        let guide = guide(&underway(&sent, 55.0), lead(GUIDE, 10), GUIDED, 100);
        // 55 ms are three points at 50 Hz, of which the last has not quite come.
        assert_eq!((guide.delay, guide.until), (3, 10));
        for (point, &position) in guide.points(1).iter().enumerate() {
            assert!((position - (0.1 + point as f64 / HZ)).abs() < 1e-9, "{point}: {position}");
        }
    }

    #[test]
    fn points_from_before_the_last_was_sent_are_those_of_the_one_before() {
        let mut sent = empty();
        send(&mut sent, 0, 0, 40, 0.0);
        send(&mut sent, 1, 100, 145, 5.0);
        let guide = guide(&underway(&sent, 45.0), lead(GUIDE, 10), GUIDED, 120);
        // Until it left at 145 ms, the robot followed the first.
        assert!((guide.positions[0] - 0.12).abs() < 1e-9 && (guide.positions[1] - 0.14).abs() < 1e-9);
        assert!((guide.positions[3] - 5.08).abs() < 1e-9, "{:?}", guide.positions);
    }

    #[test]
    fn behind_the_end_of_what_was_sent_nothing_counts() {
        let mut sent = empty();
        send(&mut sent, 0, 0, 40, 0.0);
        // The last point is at 380 ms.
        for (observation, until) in [(300, 5), (380, 1), (381, 0), (900, 0)] {
            let guide = guide(&underway(&sent, 45.0), lead(GUIDE, 10), GUIDED, observation);
            assert_eq!((guide.until, guide.delay), (until, until.min(3)), "{observation}");
            let mut weights = [f32::NAN; POINTS];
            guide.write_weights(GUIDED, &mut weights);
            assert!(weights[until..].iter().all(|&weight| weight == 0.0), "{observation}: {weights:?}");
        }
    }

    #[test]
    fn a_delay_beyond_the_horizon_makes_the_horizon_longer() {
        let mut sent = empty();
        send(&mut sent, 0, 0, 10, 0.0);
        let guide = guide(&underway(&sent, 160.0), lead(GUIDE, 4), GUIDED, 40);
        assert_eq!((guide.delay, guide.until), (8, 16));
    }

    #[test]
    fn given_points_are_as_many_as_the_delay_has_and_the_checkpoint_knows() {
        let mut sent = empty();
        send(&mut sent, 0, 0, 10, 0.0);
        let given = |delay_ms, most| {
            let continuation = Continuation::Given { most };
            let guide = guide(
                &underway(&sent, delay_ms),
                lead(ChunkJoin::Auto { blend_ms: 100.0 }, 10),
                continuation,
                40,
            );
            let mut weights = [f32::NAN; POINTS];
            guide.write_weights(continuation, &mut weights);
            assert_eq!(weights.iter().filter(|&&weight| weight == 1.0).count(), guide.until);
            (guide.delay, guide.until)
        };
        assert_eq!(given(55.0, 8), (3, 3));
        assert_eq!(given(355.0, 8), (8, 8));
        assert_eq!(given(0.0, 8), (0, 0));
    }

    #[test]
    fn what_the_robot_does_not_follow_leads_nothing() {
        let mut sent = empty();
        send(&mut sent, 3, 1000, 1040, 0.0);
        let underway = underway(&sent, 45.0);
        let leads = |underway: &Underway, join, continuation, times: (i64, i64), fresh_from| {
            let mut guide = Guide::room(POINTS, 1);
            let times = (at_ms(times.0), at_ms(times.1));
            lead(join, 10).guide(underway, continuation, times, fresh_from, &mut guide);
            guide.leads()
        };
        let now = (1100, 1105);
        assert!(leads(&underway, GUIDE, GUIDED, now, 3));
        assert!(!leads(&underway, GUIDE, GUIDED, now, 4), "from before a new prompt");
        assert!(!leads(&underway, ChunkJoin::Replace, GUIDED, now, 0));
        assert!(!leads(&underway, GUIDE, Continuation::Free, now, 0));
        assert!(!leads(&underway, GUIDE, GUIDED, (500, 505), 0), "the clock was set back");
        assert!(!leads(&Underway { sent: false, ..underway.clone() }, GUIDE, GUIDED, now, 0));
        let mut held = underway;
        held.motion.hold = true;
        assert!(!leads(&held, GUIDE, GUIDED, now, 0));
    }

    #[test]
    fn slow_first_chunks_spoil_no_estimate() {
        let mut delays = Delays::default();
        assert_eq!(delays.expected_ms(), None);
        delays.record(900.0);
        assert_eq!(delays.expected_ms(), Some(900.0));
        delays.record(40.0);
        assert_eq!(delays.expected_ms(), Some(40.0));
        (0..20).for_each(|index| delays.record(40.0 + f64::from(index)));
        assert_eq!(delays.expected_ms(), Some(59.0));
        // A slow one counts at once, and then as one of many.
        delays.record(120.0);
        assert_eq!(delays.expected_ms(), Some(120.0));
        (0..30).for_each(|_| delays.record(50.0));
        assert_eq!(delays.expected_ms(), Some(50.0));
    }
}
