//! Linears against plain f64 formulas: every instruction set, both precisions, every epilogue, odd sizes.

use super::super::Isa;
use super::super::product::Precision;
use super::super::product::tests::pack_weight;
use super::super::testing::{Owned, OwnedPacked, PRECISIONS, assert_close, run};
use super::*;

const ACTIVATIONS: [Option<Activation>; 3] = [None, Some(Activation::GeluTanh), Some(Activation::Silu)];

fn activated(activation: Option<Activation>, y: f64) -> f64 {
    match activation {
        None => y,
        Some(Activation::Silu) => y / (1.0 + (-y).exp()),
        Some(Activation::GeluTanh) => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y * y * y);
            0.5 * y * (1.0 + u.tanh())
        }
    }
}

fn dot(x: &Owned, row: usize, w: &Owned, col: usize) -> f64 {
    (0..x.cols).map(|k| x.at(row, k) * w.at(col, k)).sum()
}

/// Rounding of a sum grows with its length; of a packed result it is that of its precision.
fn tolerance(depth: usize, precision: Precision, packed: bool) -> f64 {
    let stored = if packed && precision == Precision::Bf16 { 1.0 / 256.0 } else { 0.0 };
    1e-7 * (8 + depth) as f64 + stored
}

#[test]
fn a_linear_is_its_formula_on_every_size() {
    for (rows, depth, cols) in
        [(1, 1, 1), (7, 5, 16), (13, 33, 47), (6, 588, 64), (131, 300, 35), (20, 1035, 70)]
    {
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|p| (isa, p))) {
            let of_rows = isa.rows(precision);
            let x = Owned::random(rows, depth, 1).rounded(of_rows);
            let w = Owned::random(cols, depth, 2).rounded(precision);
            let (bias, addend) = (Owned::random(1, cols, 3), Owned::random(rows.div_ceil(7), cols, 4));
            let gate = Owned::random(1, cols, 5);
            let packed = OwnedPacked::of(&x, of_rows, isa);
            let weight = Arc::new(pack_weight(&w, precision));
            for (threads, activation) in [1, 3].into_iter().flat_map(|t| ACTIVATIONS.map(|a| (t, a))) {
                for with in [false, true] {
                    let out = Owned::filled(rows, cols, |_, _| f32::NAN);
                    let also = OwnedPacked::empty(rows, cols, of_rows, isa);
                    let epilogue = Epilogue {
                        bias: with.then(|| bias.matrix()),
                        activation,
                        gate: with.then(|| gate.matrix()),
                        add: with.then(|| (addend.matrix(), -0.1)),
                    };
                    let to = Destination { rows: Some(out.matrix()), packed: with.then_some(also.rows) };
                    run(Linear::new(packed.rows, weight.clone(), epilogue, to, (isa, threads)), isa);
                    let expected = |r: usize, c: usize| match with {
                        false => activated(activation, dot(&x, r, &w, c)),
                        true => {
                            let y = activated(activation, dot(&x, r, &w, c) + bias.at(0, c));
                            addend.at(r % addend.rows, c) - 0.1 * gate.at(0, c) * y
                        }
                    };
                    let what = format!("{isa} {precision} {rows}x{depth}x{cols} {activation:?}");
                    assert_close(&what, &out, tolerance(depth, of_rows, false), expected);
                    if with {
                        let found = also.unpacked(cols);
                        assert_close(&what, &found, tolerance(depth, of_rows, true), expected);
                    }
                }
            }
        }
    }
}

#[test]
fn a_gated_linear_is_its_formula_on_every_size() {
    for (rows, depth, cols) in [(1, 3, 1), (13, 33, 47), (50, 64, 96), (9, 1031, 40)] {
        for (isa, precision) in Isa::available().into_iter().flat_map(|isa| PRECISIONS.map(|p| (isa, p))) {
            let of_rows = isa.rows(precision);
            let x = Owned::random(rows, depth, 1).rounded(of_rows);
            let (g, u) = (Owned::random(cols, depth, 2), Owned::random(cols, depth, 3));
            let (g, u) = (g.rounded(precision), u.rounded(precision));
            let packed = OwnedPacked::of(&x, of_rows, isa);
            let to = OwnedPacked::empty(rows, cols, of_rows, isa);
            let gate_and_up = [&g, &u].map(|w| Arc::new(pack_weight(w, precision)));
            let destination = Destination { rows: None, packed: Some(to.rows) };
            let activation = Activation::GeluTanh;
            run(GatedLinear::new(packed.rows, gate_and_up, activation, destination, (isa, 2)), isa);
            let what = format!("{isa} {precision} {rows}x{depth}x{cols}");
            assert_close(&what, &to.unpacked(cols), tolerance(depth, of_rows, true), |r, c| {
                activated(Some(activation), dot(&x, r, &g, c)) * dot(&x, r, &u, c)
            });
        }
    }
}
