//! What each part of a program's work costs: constants fitted to published measurements, and how wrong they are. Called by
//! `cli plan`.
//!
//! Least squares of relative errors; no constant is negative, and none says that a core multiplies faster than the vendor's
//! peak. Errors of whole runs are taken thrice, since each single operation was measured in a tuned configuration of its own.
//! Every measurement is also predicted by constants that were fitted without it: that error is the honest one.

use super::published::{Published, Sample};
use super::work::{Part, Parts, Work};

const PARTS: usize = Part::ALL.len();
const WHOLE_RUN: f64 = 3.0;
/// The measured runs are all of one family of programs, and single operations are 20 % and more off, so that others, which have them in
/// other proportions, cannot be as close as those.
const LEAST_MARGIN: f64 = 0.15;

/// Constants, and what they make of the measurements.
pub struct Fit {
    /// Microseconds for one of each [`Part`].
    pub constants: Parts,
    pub checks: Vec<Check>,
}

/// A measurement, and what was predicted for it.
pub struct Check {
    pub name: String,
    pub source: String,
    pub whole: bool,
    pub measured_us: f64,
    pub fitted_us: f64,
    /// By constants that were fitted without this measurement.
    pub left_out_us: f64,
}

impl Check {
    /// Relative error of the fit.
    pub fn error(&self) -> f64 {
        self.fitted_us / self.measured_us - 1.0
    }

    /// The same where this measurement was left out.
    pub fn left_out_error(&self) -> f64 {
        self.left_out_us / self.measured_us - 1.0
    }
}

impl Fit {
    /// Of the measurements kept in this repository.
    pub fn kept() -> Result<Self, serde_json::Error> {
        Ok(Self::of(&Published::kept()?.samples()))
    }

    pub fn of(samples: &[Sample]) -> Self {
        let all: Vec<&Sample> = samples.iter().collect();
        let constants = solve(&all);
        let check = |(index, sample): (usize, &Sample)| {
            let others: Vec<&Sample> = samples
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, other)| other)
                .collect();
            Check {
                name: sample.name.clone(),
                source: sample.source.clone(),
                whole: sample.whole,
                measured_us: sample.us,
                fitted_us: time(&constants, &sample.work),
                left_out_us: time(&solve(&others), &sample.work),
            }
        };
        Self { checks: samples.iter().enumerate().map(check).collect(), constants }
    }

    /// Microseconds.
    pub fn time_us(&self, work: &Work) -> f64 {
        time(&self.constants, work)
    }

    /// Microseconds by part.
    pub fn parts_us(&self, work: &Work) -> Parts {
        let counted = work.counted(&self.constants);
        std::array::from_fn(|part| self.constants[part] * counted[part])
    }

    /// The largest relative error of whole runs, fitted and left out.
    pub fn errors_of_runs(&self) -> [f64; 2] {
        let runs = || self.checks.iter().filter(|check| check.whole);
        [
            runs().map(|run| run.error().abs()).fold(0.0, f64::max),
            runs().map(|run| run.left_out_error().abs()).fold(0.0, f64::max),
        ]
    }

    /// How far another program's time may be from the prediction: twice the error of whole runs that were left out, and at least
    /// 15 %.
    pub fn margin(&self) -> f64 {
        (2.0 * self.errors_of_runs()[1]).max(LEAST_MARGIN)
    }
}

fn time(constants: &Parts, work: &Work) -> f64 {
    constants.iter().zip(work.counted(constants)).map(|(constant, value)| constant * value).sum()
}

/// Rounds after which a fit that goes to and fro is taken as it is.
const ROUNDS: usize = 100;
/// Where a fit begins: what a MB read or of weights, and a tile sent, cost beside a microsecond of multiplying decides what counts of
/// what goes on at once.
const BEGINNINGS: [[f64; 3]; 6] =
    [[1.0, 1.0, 0.05], [2.0, 2.0, 0.1], [2.0, 4.0, 0.1], [4.0, 4.0, 0.1], [4.0, 4.0, 0.2], [4.0, 8.0, 0.2]];

/// The constants that make the sum of squared relative errors smallest. What counts of overlapped work depends on them, so they are
/// found again until nothing changes, from several beginnings.
fn solve(samples: &[&Sample]) -> Parts {
    let fits = BEGINNINGS.map(|[read, weights, sent]| {
        let mut constants = [1.0; PARTS];
        constants[Part::ReadMegabytes as usize] = read;
        constants[Part::ManyRowsWeights as usize] = weights;
        constants[Part::SentTiles as usize] = sent;
        for _ in 0..ROUNDS {
            let counted: Vec<Parts> = samples.iter().map(|sample| sample.work.counted(&constants)).collect();
            let next = solve_counted(samples, &counted);
            if next == constants {
                break;
            }
            constants = next;
        }
        constants
    });
    let error = |constants: &Parts| -> f64 {
        let errors =
            samples.iter().map(|sample| weight(sample) * (time(constants, &sample.work) / sample.us - 1.0));
        errors.map(|error| error * error).sum()
    };
    fits.into_iter().min_by(|a, b| error(a).total_cmp(&error(b))).unwrap_or([0.0; PARTS])
}

fn weight(sample: &Sample) -> f64 {
    if sample.whole { WHOLE_RUN } else { 1.0 }
}

/// No constant is below: no time is negative, and no core multiplies faster than the vendor's peak.
const LEAST: Parts = {
    let mut least = [0.0; PARTS];
    least[Part::TileProducts as usize] = 1.0;
    least
};

/// The same for what counts; a constant that would be below [`LEAST`] is that.
fn solve_counted(samples: &[&Sample], counted: &[Parts]) -> Parts {
    let mut free: Vec<usize> = (0..PARTS).collect();
    loop {
        let (mut matrix, mut right) = (vec![vec![0.0; free.len()]; free.len()], vec![0.0; free.len()]);
        for (sample, counted) in samples.iter().zip(counted) {
            let weight = weight(sample);
            let fixed = (0..PARTS).filter(|part| !free.contains(part));
            let known: f64 = fixed.map(|part| LEAST[part] * counted[part]).sum();
            let row: Vec<f64> = free.iter().map(|&part| weight * counted[part] / sample.us).collect();
            for (i, a) in row.iter().enumerate() {
                row.iter().enumerate().for_each(|(j, b)| matrix[i][j] += a * b);
                right[i] += a * weight * (1.0 - known / sample.us);
            }
        }
        let mut constants = LEAST;
        for (&part, value) in free.iter().zip(eliminate(matrix, right)) {
            constants[part] = value;
        }
        let below = |part: usize| constants[part] - LEAST[part];
        match free.iter().copied().min_by(|&a, &b| below(a).total_cmp(&below(b))) {
            Some(part) if below(part) < 0.0 => free.retain(|&other| other != part),
            _ => return constants,
        }
    }
}

/// Solves `matrix x = right` by Gaussian elimination; what is not determined is 0.
fn eliminate(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Vec<f64> {
    let count = right.len();
    for column in 0..count {
        let pivot =
            (column..count).max_by(|&a, &b| matrix[a][column].abs().total_cmp(&matrix[b][column].abs()));
        let Some(pivot) = pivot.filter(|&row| matrix[row][column].abs() > f64::EPSILON) else { continue };
        matrix.swap(column, pivot);
        right.swap(column, pivot);
        for row in (0..count).filter(|&row| row != column) {
            let factor = matrix[row][column] / matrix[column][column];
            let of_pivot = matrix[column].clone();
            matrix[row].iter_mut().zip(&of_pivot).for_each(|(value, pivot)| *value -= factor * pivot);
            right[row] -= factor * right[column];
        }
    }
    let value = |row: usize| match matrix[row][row] {
        diagonal if diagonal.abs() > f64::EPSILON => right[row] / diagonal,
        _ => 0.0,
    };
    (0..count).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The condition for saying anything of other programs.
    #[test]
    fn published_runs_are_reproduced_within_ten_percent() {
        let fit = Fit::kept().unwrap();
        let [fitted, left_out] = fit.errors_of_runs();
        assert!(fitted < 0.10 && left_out < 0.10, "{fitted} {left_out}");
        assert_eq!(fit.checks.iter().filter(|check| check.whole).count(), 8);
        // Every constant has its measurements.
        assert!(fit.constants.iter().all(|&constant| constant > 0.0), "{:?}", fit.constants);
    }

    /// A test of the test: what is measured is what the constants come from.
    #[test]
    fn constants_that_made_the_measurements_are_found() {
        let constants = [1.1, 0.9, 2.2, 0.11, 1.2, 4.0, 0.5, 0.8, 0.7, 0.25];
        let mut samples = Published::kept().unwrap().samples();
        samples.iter_mut().for_each(|sample| sample.us = time(&constants, &sample.work));
        let fit = Fit::of(&samples);
        for (found, expected) in fit.constants.iter().zip(constants) {
            assert!((found / expected - 1.0).abs() < 1e-6, "{:?}", fit.constants);
        }
        assert!(fit.errors_of_runs()[1] < 1e-6);
    }
}
