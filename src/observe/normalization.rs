//! From the robot's units (radians, metres) to the model's and back. Called on the control thread, where nothing here
//! allocates; loading is `stats`' part.

use std::path::{Path, PathBuf};

use super::stats::{self, Columns, Convention, Mode, NormalizationError, RelativeStep};
use crate::settings::Normalization;

/// What a model was trained with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trained {
    /// Dimensions that states and actions are padded to.
    pub state_dim: usize,
    pub action_dim: usize,
    /// Whether openpi's statistics are used by their quantiles, or by mean and deviation.
    pub quantiles: bool,
}

/// The normalisation of one robot's states and actions.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    state: Vec<Line>,
    actions: Vec<Line>,
    state_dim: usize,
    action_dim: usize,
    relative: Option<RelativeStep>,
    moving_dimensions: Option<usize>,
    among_weights: Option<PathBuf>,
    /// lerobot's states and statistics are f32. Where a joint never moved, their difference is divided by as little
    /// as 1e-8, so a state of more digits than its mean would come out anywhere.
    single_precision: bool,
}

/// `normalised = (x - center) / divisor + shift`, `x = (normalised - shift) * factor + center`.
///
/// The factor is not always the divisor: lerobot adds an epsilon to one of them only.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    center: f64,
    divisor: f64,
    factor: f64,
    shift: f64,
}

impl Line {
    const IDENTITY: Self = Self { center: 0.0, divisor: 1.0, factor: 1.0, shift: 0.0 };
}

impl Normalizer {
    /// Statistics for `joints` joints. Without statistics it is an error, unless the user has said that there are to be none: a robot must never move
    /// in the wrong units.
    pub fn load(
        checkpoint: &Path,
        source: &Normalization,
        joints: usize,
        trained: Trained,
    ) -> Result<Self, NormalizationError> {
        let Trained { state_dim, action_dim, quantiles } = trained;
        for (what, dim) in [("states", state_dim), ("actions", action_dim)] {
            if joints > dim {
                return Err(NormalizationError::TooManyJoints { joints, what, dim });
            }
        }
        let identity = vec![Line::IDENTITY; joints];
        let path = match source {
            Normalization::None => {
                return Ok(Self {
                    state: identity.clone(),
                    actions: identity,
                    state_dim,
                    action_dim,
                    relative: None,
                    moving_dimensions: None,
                    among_weights: None,
                    single_precision: false,
                });
            }
            Normalization::Checkpoint | Normalization::DataSet(_) => checkpoint,
            Normalization::File(path) => path,
        };
        let data_set = match source {
            Normalization::DataSet(name) => Some(name.as_str()),
            _ => None,
        };
        let statistics = stats::load(path, quantiles, data_set)?;
        let (state, actions) = statistics.lines(joints, state_dim, action_dim)?;
        Ok(Self {
            state,
            actions,
            state_dim,
            action_dim,
            relative: statistics.relative.clone(),
            moving_dimensions: statistics.moving_dimensions(),
            among_weights: statistics.among_weights.then(|| statistics.file.clone()),
            single_precision: matches!(statistics.convention, Convention::Lerobot { .. }),
        })
    }

    /// What the checkpoint says (lerobot's do) about actions that are relative to the state; none if it does not say.
    pub fn relative(&self) -> Option<&RelativeStep> {
        self.relative.as_ref()
    }

    /// The file of weights that the statistics stood in, if they did not come by themselves.
    pub fn among_weights(&self) -> Option<&Path> {
        self.among_weights.as_deref()
    }

    /// Joints whose statistics blow them up: the number of each, and the factor by which the model sees what it is off.
    /// They never moved in training, so any real state is far outside of what the model knows.
    pub fn blown_up(&self) -> impl Iterator<Item = (usize, f64)> {
        /// A thousandth of a radian off would be a whole deviation off.
        const MOST: f64 = 1e3;
        let factors = self.state.iter().map(|line| 1.0 / line.divisor).enumerate();
        factors.filter(|(_, factor)| *factor >= MOST)
    }

    /// Joints that an action of 0 or 1, which is not much, moves further than any joint goes, in whatever unit; and how far.
    fn wild_actions(&self) -> impl Iterator<Item = (usize, f64)> {
        /// A servo's ticks are the smallest unit in use: a turn is 4096 of them.
        const MOST: f64 = 1e5;
        let ways = self.actions.iter().map(|line| line.factor.abs().max(line.center.abs())).enumerate();
        ways.filter(|(_, way)| *way >= MOST)
    }

    /// What whoever starts this should know of these statistics.
    pub fn remarks(&self, joints: &[String]) -> Vec<String> {
        let source = self.among_weights().map(|file| {
            format!(
                "the statistics are those among the weights in {}, as lerobot up to 0.3 saved them",
                file.display()
            )
        });
        let blown_up = self.blown_up().map(|(joint, factor)| {
            format!(
                "joint '{}' hardly moved in training: the statistics multiply what it is off by {factor:.0e}, so that 0.01 \
                 reaches the model as {:.0e}. Keep it where it was then, or give it a wider deviation in a file of your own \
                 (norm_stats)",
                joints.get(joint).map_or("?", String::as_str),
                0.01 * factor
            )
        });
        let actions = self.wild_actions().map(|(joint, factor)| {
            format!(
                "by the statistics an action of 1 moves joint '{}' by {factor:.0e} of the model's units: are they this robot's, or \
                 did a line of another one slip in?",
                joints.get(joint).map_or("?", String::as_str)
            )
        });
        source.into_iter().chain(blown_up).chain(actions).collect()
    }

    /// How many dimensions of the state the statistics know to vary, if those behind are padding: the joints of the robot
    /// that they are of. None where they do not tell.
    pub fn moving_dimensions(&self) -> Option<usize> {
        self.moving_dimensions
    }

    pub fn joints(&self) -> usize {
        self.state.len()
    }

    /// Joint positions `[joints]` to the model's state `[state_dim]`, padded with 0 after normalisation.
    ///
    /// # Panics
    /// When a slice has another length.
    pub fn normalize_state(&self, joints: &[f64], out: &mut [f32]) {
        assert!(joints.len() == self.joints() && out.len() == self.state_dim);
        let (values, padding) = out.split_at_mut(joints.len());
        for (out, x) in values.iter_mut().zip(self.normalized(joints)) {
            *out = x as f32;
        }
        padding.fill(0.0);
    }

    /// Joint positions normalised, in the digits of whoever made the statistics: where a whole number is made of them, the
    /// last one counts.
    pub fn normalized(&self, joints: &[f64]) -> impl Iterator<Item = f64> {
        joints.iter().zip(&self.state).map(|(&x, line)| match self.single_precision {
            true => f64::from((x as f32 - line.center as f32) / line.divisor as f32 + line.shift as f32),
            false => (x - line.center) / line.divisor + line.shift,
        })
    }

    /// The model's actions `[horizon, action_dim]` to joint positions `[horizon, joints]`.
    ///
    /// # Panics
    /// When the slices have different horizons.
    pub fn unnormalize_actions(&self, actions: &[f32], out: &mut [f64]) {
        assert_eq!(actions.len() / self.action_dim, out.len() / self.joints().max(1));
        for (point, out) in
            actions.chunks_exact(self.action_dim).zip(out.chunks_exact_mut(self.joints().max(1)))
        {
            for ((out, &y), line) in out.iter_mut().zip(point).zip(&self.actions) {
                *out = (f64::from(y) - line.shift) * line.factor + line.center;
            }
        }
    }

    /// Joint positions `[points, joints]` to actions as the model gives them `[points, action_dim]`: the other way of
    /// [`Self::unnormalize_actions`], padded with 0, as in training.
    pub fn normalize_actions(&self, positions: &[f64], out: &mut [f32]) {
        /// A policy's own are a few units from 0. Further out is a joint that hardly moved in training, and is a little off.
        const FURTHEST: f64 = 10.0;
        let points = positions.chunks_exact(self.joints().max(1));
        for (point, out) in points.zip(out.chunks_exact_mut(self.action_dim)) {
            let (values, padding) = out.split_at_mut(point.len());
            for ((out, &x), line) in values.iter_mut().zip(point).zip(&self.actions) {
                let scaled = if line.factor == 0.0 { 0.0 } else { (x - line.center) / line.factor };
                *out = (scaled + line.shift).clamp(-FURTHEST, FURTHEST) as f32;
            }
            padding.fill(0.0);
        }
    }
}

impl stats::Statistics {
    fn lines(
        &self,
        joints: usize,
        state_dim: usize,
        action_dim: usize,
    ) -> Result<(Vec<Line>, Vec<Line>), NormalizationError> {
        Ok((
            self.feature(&self.state, self.state_mode, "state", joints, state_dim)?,
            self.feature(&self.actions, self.action_mode, "actions", joints, action_dim)?,
        ))
    }

    fn feature(
        &self,
        columns: &Columns,
        mode: Mode,
        feature: &'static str,
        joints: usize,
        dim: usize,
    ) -> Result<Vec<Line>, NormalizationError> {
        let (low, high) = match mode {
            Mode::Identity => return Ok(vec![Line::IDENTITY; joints]),
            Mode::MeanStd => ("mean", "std"),
            Mode::Quantiles => ("q01", "q99"),
            Mode::InnerQuantiles => ("q10", "q90"),
            Mode::MinMax => ("min", "max"),
        };
        let column = |name: &str| self.column(columns, feature, name, joints, dim);
        let (low, high) = (column(low)?, column(high)?);
        let lines = low.iter().zip(high).take(joints).enumerate().map(|(index, (&low, &high))| {
            let fail = |message: String| NormalizationError::Value {
                file: self.file.clone(),
                feature,
                index,
                message,
            };
            if mode == Mode::MeanStd && high < 0.0 {
                return Err(fail(format!("std is {high}, below 0")));
            }
            if mode != Mode::MeanStd && high < low {
                return Err(fail(format!("the upper bound {high} is below the lower bound {low}")));
            }
            Ok(self.convention.line(mode, low, high))
        });
        lines.collect()
    }
}

impl Convention {
    /// The formulas of openpi (`transforms.py`) and of lerobot (`normalize_processor.py`).
    fn line(self, mode: Mode, low: f64, high: f64) -> Line {
        match (mode, self) {
            (Mode::Identity, _) => Line::IDENTITY,
            (Mode::MeanStd, Convention::Openpi) => {
                Line { center: low, divisor: high + 1e-6, factor: high + 1e-6, shift: 0.0 }
            }
            (Mode::MeanStd, Convention::Lerobot { epsilon }) => {
                Line { center: low, divisor: high + epsilon, factor: high, shift: 0.0 }
            }
            (Mode::Quantiles | Mode::InnerQuantiles | Mode::MinMax, Convention::Openpi) => {
                Self::between(low, high - low + 1e-6)
            }
            (Mode::Quantiles | Mode::InnerQuantiles | Mode::MinMax, Convention::Lerobot { epsilon }) => {
                // In f32, as lerobot subtracts.
                let range = high as f32 - low as f32;
                Self::between(low, if range == 0.0 { epsilon } else { f64::from(range) })
            }
        }
    }

    /// `low..low + range` to -1..1.
    fn between(low: f64, range: f64) -> Line {
        Line { center: low, divisor: range / 2.0, factor: range / 2.0, shift: -1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_padded_after_normalisation() {
        let line = Convention::Openpi.line(Mode::MeanStd, 1.0, 2.0);
        let normalizer = Normalizer {
            state: vec![line; 2],
            actions: vec![line; 2],
            state_dim: 4,
            action_dim: 3,
            relative: None,
            moving_dimensions: None,
            among_weights: None,
            single_precision: false,
        };
        let mut state = [9.0; 4];
        normalizer.normalize_state(&[3.0, 1.0], &mut state);
        assert!((state[0] - 1.0).abs() < 1e-6);
        assert_eq!(state[1..], [0.0; 3]);

        let mut actions = [0.0; 4];
        normalizer.unnormalize_actions(&[1.0, 0.0, 7.0, -1.0, 0.5, 7.0], &mut actions);
        for (found, expected) in actions.iter().zip([3.0, 1.0, -1.0, 2.0]) {
            assert!((found - expected).abs() < 1e-5, "{actions:?}");
        }
    }

    #[test]
    fn no_normalisation_only_on_the_users_word() {
        let folder = tempfile::tempdir().unwrap();
        let trained = Trained { state_dim: 4, action_dim: 4, quantiles: false };
        let load = |source| Normalizer::load(folder.path(), &source, 2, trained);
        let error = load(Normalization::Checkpoint).unwrap_err().to_string();
        assert!(error.contains("normalization: none"), "{error}");
        let normalizer = load(Normalization::None).unwrap();
        let mut state = [9.0; 4];
        normalizer.normalize_state(&[3.0, 1.0], &mut state);
        assert_eq!(state, [3.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn more_joints_than_the_model_has_are_refused() {
        let trained = Trained { state_dim: 32, action_dim: 40, quantiles: false };
        let error =
            Normalizer::load(Path::new("."), &Normalization::None, 33, trained).unwrap_err().to_string();
        assert_eq!(error, "33 joints are configured, but the model's states have room for 32");
    }
}
