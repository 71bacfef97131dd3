//! How fast a bag's clock runs, as `play` and `replay` take it.

/// Slower or faster than this nobody watches; and no bag, whatever its stamps are, then takes longer than a clock can count.
const SLOWEST: f64 = 1e-3;
const FASTEST: f64 = 1e3;

/// A factor from the command line: 2.0 is twice as fast as recorded.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (SLOWEST..=FASTEST).contains(rate));
    rate.ok_or_else(|| format!("must be a number from {SLOWEST} to {FASTEST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_no_clock_can_follow_are_refused() {
        for (text, expected) in [("1", 1.0), ("0.001", 0.001), ("1e3", 1000.0)] {
            assert_eq!(rate(text), Ok(expected));
        }
        for text in ["0", "-1", "1e-30", "1e30", "nan", "inf", "max", ""] {
            assert_eq!(rate(text), Err("must be a number from 0.001 to 1000".into()), "{text}");
        }
    }
}
