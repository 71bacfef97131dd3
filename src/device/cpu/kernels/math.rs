//! Exponentials that the compiler can vectorise: no calls, no branches. Used by activations and softmax.

use super::Arithmetic;
use crate::graph::Activation;

/// `e^x`, relative error below 2e-7; 0 below -87, where the result would lose precision, and capped at e^88.
///
/// `x = n ln 2 + r` with n whole and |r| <= ln 2 / 2, then `2^n` times the polynomial of Cephes' `expf` in r.
#[inline(always)]
pub(super) fn exp<A: Arithmetic>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 leaves no bits for a fraction, so it rounds to a whole number kept in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let capped = x.clamp(-87.0, 88.0);
    let shifted = A::mul_add(capped, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = A::mul_add(n, -LN2_LOW, A::mul_add(n, -LN2_HIGH, capped));
    let mut p = 1.987_569_1e-4;
    p = A::mul_add(p, r, 1.398_2e-3);
    p = A::mul_add(p, r, 8.333_452e-3);
    p = A::mul_add(p, r, 4.166_579_6e-2);
    p = A::mul_add(p, r, 1.666_666_5e-1);
    p = A::mul_add(p, r, 5e-1);
    p = A::mul_add(p, r * r, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    if x < -87.0 { 0.0 } else { p * power }
}

/// The graph's activations, by the identity `0.5 (1 + tanh u) = 1 / (1 + e^(-2u))`.
#[inline(always)]
pub(super) fn activate<A: Arithmetic>(activation: Activation, x: f32) -> f32 {
    let twice_u = match activation {
        Activation::GeluTanh => {
            const C: f32 = 1.595_769_2; // 2 sqrt(2 / pi)
            C * A::mul_add(0.044_715 * x * x, x, x)
        }
        Activation::Silu => x,
    };
    x / (1.0 + exp::<A>(-twice_u))
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    #[cfg(target_arch = "x86_64")]
    use super::super::x86::Avx2;
    use super::*;

    fn check_exp<A: Arithmetic>() {
        for i in -870_000..=880_000 {
            let x = i as f32 * 1e-4;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp::<A>(x)) - expected).abs() / expected;
            assert!(error < 2e-7, "e^{x}: relative error {error:e}");
        }
        assert_eq!(exp::<A>(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp::<A>(0.0), 1.0);
        assert!(exp::<A>(f32::NAN).is_nan());
    }

    #[test]
    fn exp_is_exact_to_two_units_in_the_last_place() {
        check_exp::<Portable>();
        // The fused operation, in software where the test is not compiled for it.
        #[cfg(target_arch = "x86_64")]
        check_exp::<Avx2>();
    }

    #[test]
    fn activations_follow_their_formulas() {
        for i in -3000..=3000 {
            let x = f64::from(i) * 0.01;
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            let gelu = 0.5 * x * (1.0 + u.tanh());
            let silu = x / (1.0 + (-x).exp());
            for (activation, expected) in [(Activation::GeluTanh, gelu), (Activation::Silu, silu)] {
                let found = f64::from(activate::<Portable>(activation, x as f32));
                assert!((found - expected).abs() < 1e-6 * (1.0 + expected.abs()), "{activation:?}({x})");
            }
        }
    }
}
