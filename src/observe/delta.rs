//! Delta actions: a policy trained on differences gives, for some joints, the distance from the state it saw.

/// Which joints are differences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaMask(Vec<bool>);

impl DeltaMask {
    /// openpi's run lengths: `[6, -1, 6, -1]` is 6 joints as differences, 1 absolute (a gripper), and again.
    /// Empty: every joint is absolute.
    pub fn from_openpi(runs: &[i64], joints: usize) -> Result<Self, DeltaError> {
        let covered: u64 = runs.iter().map(|run| run.unsigned_abs()).fold(0, u64::saturating_add);
        if runs.is_empty() {
            return Ok(Self(vec![false; joints]));
        }
        if runs.contains(&0) || covered != joints as u64 {
            return Err(DeltaError { runs: runs.to_vec(), covered, joints });
        }
        let mask = runs.iter().flat_map(|&run| std::iter::repeat_n(run > 0, run.unsigned_abs() as usize));
        Ok(Self(mask.collect()))
    }

    /// A mask with one entry per joint.
    pub fn new(mask: Vec<bool>) -> Self {
        Self(mask)
    }

    /// As openpi's run lengths.
    pub fn to_openpi(&self) -> Vec<i64> {
        let length = |run: &[bool]| if run[0] { run.len() as i64 } else { -(run.len() as i64) };
        self.0.chunk_by(|a, b| a == b).map(length).collect()
    }

    /// How many joints' actions are differences.
    pub fn count(&self) -> usize {
        self.0.iter().filter(|masked| **masked).count()
    }

    /// Whether a joint's actions are differences.
    pub fn has(&self, joint: usize) -> bool {
        self.0[joint]
    }

    /// Turns differences into positions: `actions` `[horizon, joints]` plus `state` `[joints]` where masked.
    pub fn add_state(&self, state: &[f64], actions: &mut [f64]) {
        self.each(state, actions, |action, state| action + state);
    }

    /// Turns positions into differences.
    pub fn subtract_state(&self, state: &[f64], positions: &mut [f64]) {
        self.each(state, positions, |position, state| position - state);
    }

    fn each(&self, state: &[f64], points: &mut [f64], f: impl Fn(f64, f64) -> f64) {
        for point in points.chunks_exact_mut(self.0.len().max(1)) {
            for ((value, &state), &masked) in point.iter_mut().zip(state).zip(&self.0) {
                if masked {
                    *value = f(*value, state);
                }
            }
        }
    }
}

/// Run lengths that do not fit the robot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "delta_actions {runs:?} covers {covered} joints, but there are {joints}; runs must not be 0 and must add up"
)]
pub struct DeltaError {
    runs: Vec<i64>,
    covered: u64,
    joints: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_start_from_the_state_and_grippers_do_not() {
        let mask = DeltaMask::from_openpi(&[2, -1], 3).unwrap();
        let mut actions = [0.1, 0.2, 0.3, 0.0, -1.0, 0.9];
        mask.add_state(&[1.0, 2.0, 3.0], &mut actions);
        assert_eq!(actions, [1.1, 2.2, 0.3, 1.0, 1.0, 0.9]);
    }

    #[test]
    fn without_runs_every_joint_is_absolute() {
        let mut actions = [0.1, 0.2];
        DeltaMask::from_openpi(&[], 2).unwrap().add_state(&[1.0, 1.0], &mut actions);
        assert_eq!(actions, [0.1, 0.2]);
    }

    #[test]
    fn runs_must_cover_the_joints() {
        for runs in [&[6, -1][..], &[14, 1], &[0, 14], &[i64::MIN, i64::MIN]] {
            let error = DeltaMask::from_openpi(runs, 14).unwrap_err().to_string();
            assert!(error.contains("there are 14"), "{error}");
        }
    }
}
