//! How far two values are apart, and how far they may be. Used by everything that compares a device with a reference.

use serde_json::{Value, json};

/// How far values are from what is expected of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Pearson's correlation; 1 where the expected values are all the same and it has no meaning.
    pub correlation: f64,
    /// Root of the mean square of the difference, relative to that of the expected values.
    pub relative_rms: f64,
    /// Largest error of one element.
    pub largest: f64,
}

impl Difference {
    pub const NONE: Self = Self { correlation: 1.0, relative_rms: 0.0, largest: 0.0 };

    /// Of pairs of what was found and what is expected. A value that is no number is infinitely far away.
    pub fn of(pairs: &[(f64, f64)]) -> Self {
        if pairs.iter().any(|(found, _)| !found.is_finite()) {
            return Self { correlation: 0.0, relative_rms: f64::INFINITY, largest: f64::INFINITY };
        }
        let sum = |term: &dyn Fn(f64, f64) -> f64| pairs.iter().map(|&(x, y)| term(x, y)).sum::<f64>();
        let error = sum(&|x, y| (x - y).powi(2));
        if error == 0.0 {
            return Self::NONE;
        }
        let count = pairs.len() as f64;
        let (mean_x, mean_y) = (sum(&|x, _| x) / count, sum(&|_, y| y) / count);
        let covariance = sum(&|x, y| (x - mean_x) * (y - mean_y));
        let of_y = sum(&|_, y| (y - mean_y).powi(2));
        let spread = (sum(&|x, _| (x - mean_x).powi(2)) * of_y).sqrt();
        Self {
            correlation: match () {
                () if of_y == 0.0 => 1.0,
                () if spread == 0.0 => 0.0,
                () => covariance / spread,
            },
            relative_rms: (error / sum(&|_, y| y * y)).sqrt(),
            largest: pairs.iter().map(|(x, y)| (x - y).abs()).fold(0.0, f64::max),
        }
    }

    /// The worse of two in each respect.
    pub fn worse(self, other: Self) -> Self {
        Self {
            correlation: self.correlation.min(other.correlation),
            relative_rms: self.relative_rms.max(other.relative_rms),
            largest: self.largest.max(other.largest),
        }
    }

    pub fn to_json(self) -> Value {
        json!({ "pcc": self.correlation, "relative_rms": self.relative_rms, "largest_error": self.largest })
    }
}

/// How far values may be from the reference's. Integers and truth values must be the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Least correlation.
    pub correlation: f64,
    /// Most relative rms.
    pub relative_rms: f64,
}

impl Tolerance {
    /// Both sides compute in f32 with sums in other orders.
    pub const F32: Self = Self { correlation: 0.99999, relative_rms: 1e-4 };
    /// The device rounds to fewer bits. Rounding grows with depth; a wrong mask, transposition or position is far beyond this.
    pub const ROUNDED: Self = Self { correlation: 0.99, relative_rms: 0.1 };

    pub fn allows(&self, difference: Difference) -> bool {
        difference.correlation >= self.correlation && difference.relative_rms <= self.relative_rms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_not_apart() {
        assert_eq!(Difference::of(&[(1.0, 1.0), (2.0, 2.0)]), Difference::NONE);
    }

    #[test]
    fn a_scale_shows_in_the_rms_and_not_in_the_correlation() {
        let found = Difference::of(&[(2.0, 1.0), (-4.0, -2.0), (2.0, 1.0)]);
        assert!((found.correlation - 1.0).abs() < 1e-12 && (found.relative_rms - 1.0).abs() < 1e-12);
        assert_eq!(found.largest, 2.0);
        assert!(!Tolerance::ROUNDED.allows(found));
    }

    #[test]
    fn what_is_no_number_is_never_allowed() {
        for bad in [f64::NAN, f64::INFINITY] {
            let found = Difference::of(&[(bad, 1.0), (2.0, 2.0)]);
            assert!(!Tolerance { correlation: -1.0, relative_rms: 1e9 }.allows(found));
        }
    }

    #[test]
    fn a_constant_instead_of_values_does_not_correlate() {
        let found = Difference::of(&[(0.0, 1.0), (0.0, 2.0)]);
        assert_eq!((found.correlation, found.relative_rms), (0.0, 1.0));
    }
}
