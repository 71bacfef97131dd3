//! Attention against its plain f64 formula: every instruction set, both precisions, every combination of masks, pasts,
//! blocks and rotations that the model has.

use super::super::Isa;
use super::super::heads::{HeadRows, HeadsShape, PackHeads, Packing, Side};
use super::super::testing::{Owned, PRECISIONS, assert_close, run};
use super::*;

struct Case {
    attention: Attention,
    queries: usize,
    /// Own keys, the last of which are the queries'.
    keys: usize,
    past: usize,
    mask: Option<Vec<i32>>,
    /// Queries and own keys are rotated on their way.
    rotated: bool,
}

fn plain(heads: usize, kv_heads: usize, head_dim: usize) -> Attention {
    let scale = (head_dim as f32).powf(-0.5);
    Attention { heads, kv_heads, head_dim, scale, sequences: 1, past: false, masked: false, blocks: vec![] }
}

/// Keys and values packed, and the memory that they are in.
fn segment(
    attention: &Attention,
    precision: Precision,
    keys: &[HeadRows],
    values: &[HeadRows],
    mask: Option<Matrix>,
    isa: Isa,
) -> (Segment, [Owned; 2]) {
    let Attention { sequences, kv_heads: heads, head_dim, .. } = *attention;
    let rows: usize = keys.iter().map(|part| part.x.rows).sum();
    let pack = |side, parts: &[HeadRows]| {
        let shape = HeadsShape { side, precision, sequences, heads, head_dim, length: rows / sequences };
        // NaN stands for what an earlier use of the memory left.
        let memory = Owned::filled(1, shape.words(), |_, _| f32::NAN);
        (Packing { parts: parts.to_vec(), to: PackedHeads { packed: memory.matrix(), shape } }, memory)
    };
    let ((keys, key_memory), (values, value_memory)) = (pack(Side::Keys, keys), pack(Side::Values, values));
    let segment = Segment { keys: keys.to, values: values.to, mask };
    run(PackHeads { keys, values, threads: 2 }, isa);
    (segment, [key_memory, value_memory])
}

/// `x` rotated by `table` as the formula says.
fn turned(x: &Owned, table: &Owned, first: usize) -> Owned {
    let half = table.cols / 2;
    Owned::filled(x.rows, x.cols, |row, col| {
        let (head, i) = (col / table.cols * table.cols, col % table.cols);
        let (cosine, sine) = (table.at(first + row, i % half), table.at(first + row, half + i % half));
        let (a, b) = (x.at(row, head + i % half), x.at(row, head + half + i % half));
        (if i < half { a * cosine - b * sine } else { b * cosine + a * sine }) as f32
    })
}

fn part(x: &Owned, start: usize, end: usize) -> Matrix {
    // SAFETY: the rows are within the matrix.
    Matrix { data: unsafe { x.matrix().data.add(start * x.cols) }, rows: end - start, ..x.matrix() }
}

fn check(case: Case) {
    for isa in Isa::available() {
        for precision in PRECISIONS.map(|weights| isa.rows(weights)) {
            check_one(&case, isa, precision);
        }
    }
}

fn check_one(case: &Case, isa: Isa, precision: Precision) {
    let Attention { heads, kv_heads, head_dim, scale, sequences, .. } = case.attention;
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let q = Owned::random(case.queries, width, 1);
    let (k, v) = (Owned::random(case.keys, kv_width, 2), Owned::random(case.keys, kv_width, 3));
    let past_rows = case.past.max(1);
    let (past_k, past_v) = (Owned::random(past_rows, kv_width, 4), Owned::random(past_rows, kv_width, 5));
    let first_query = case.keys - case.queries;
    let table = Owned::filled(case.keys, head_dim, |row, col| {
        let angle = (row * (1 + col % (head_dim / 2))) as f32 * 0.1;
        if col < head_dim / 2 { angle.cos() } else { angle.sin() }
    });
    let mask = case.mask.as_ref().map(|mask| Owned::integers(mask));
    let mask_matrix = mask.as_ref().map(Owned::matrix);

    // The own keys come in two parts where that is possible.
    let split = if sequences == 1 { case.keys / 3 } else { 0 };
    let rows = |x: &Owned, rotary: bool| -> Vec<HeadRows> {
        [(0, split), (split, case.keys)]
            .into_iter()
            .filter(|(start, end)| start < end)
            .map(|(start, end)| {
                let table = (rotary && case.rotated).then(|| part(&table, start, end));
                HeadRows { x: part(x, start, end), rotary: table }
            })
            .collect()
    };
    let past = (case.past > 0).then(|| {
        let whole = |x: &Owned| [HeadRows { x: x.matrix(), rotary: None }];
        segment(&case.attention, precision, &whole(&past_k), &whole(&past_v), mask_matrix, isa)
    });
    let own_mask = if past.is_some() { None } else { mask_matrix };
    let (own, _memory) =
        segment(&case.attention, precision, &rows(&k, true), &rows(&v, false), own_mask, isa);
    let out = Owned::filled(case.queries, width, |_, _| f32::NAN);
    let query = (q.matrix(), case.rotated.then(|| part(&table, first_query, case.keys)));
    let past_segment = past.as_ref().map(|(segment, _)| *segment);
    run(Attend::new(&case.attention, (isa, 1), query, past_segment, own, out.destination()), isa);

    let (q, k) = match case.rotated {
        true => (turned(&q, &table, first_query), turned(&k, &table, 0)),
        false => (turned(&q, &no_rotation(case, head_dim), 0), turned(&k, &no_rotation(case, head_dim), 0)),
    };
    // A score of a few units carries a relative error of 2^-9 into its weight.
    let tolerance = if precision == Precision::F32 { 3e-6 } else { 1e-2 };
    assert_close(&format!("{isa} {precision} {:?}", case.attention), &out, tolerance, |row, col| {
        let (head, group) = (col / head_dim, col / head_dim * kv_heads / heads);
        let length = case.queries / sequences;
        let seen = |mask: Option<&Vec<i32>>, key: usize| mask.is_none_or(|mask| mask[key] != 0);
        let mut pairs = Vec::new();
        let mut see = |k: &Owned, v: &Owned, key: usize| {
            let dot: f64 =
                (0..head_dim).map(|d| q.at(row, head * head_dim + d) * k.at(key, group * head_dim + d)).sum();
            let value = v.at(key, group * head_dim + col % head_dim);
            pairs.push(((f64::from(scale) * dot).exp(), value));
        };
        (0..case.past)
            .filter(|&key| seen(case.mask.as_ref(), key))
            .for_each(|key| see(&past_k, &past_v, key));
        let own_mask = if case.past > 0 { None } else { case.mask.as_ref() };
        let blocks = &case.attention.blocks;
        let own_keys = match sequences {
            1 => 0..case.keys,
            _ => row / length * length..(row / length + 1) * length,
        };
        own_keys
            .filter(|&key| seen(own_mask, key))
            .filter(|&key| blocks.is_empty() || blocks[key] <= blocks[first_query + row])
            .for_each(|key| see(&k, &v, key));
        let sum: f64 = pairs.iter().map(|(weight, _)| weight).sum();
        if sum == 0.0 { 0.0 } else { pairs.iter().map(|(weight, value)| weight * value).sum::<f64>() / sum }
    });
}

fn no_rotation(case: &Case, head_dim: usize) -> Owned {
    Owned::filled(case.keys, head_dim, |_, col| if col < head_dim / 2 { 1.0 } else { 0.0 })
}

#[test]
fn vision_attends_within_each_camera() {
    let attention = Attention { sequences: 3, ..plain(2, 2, 36) };
    check(Case { attention, queries: 3 * 53, keys: 3 * 53, past: 0, mask: None, rotated: false });
}

#[test]
fn the_prefix_does_not_see_masked_tokens() {
    for rows in [1, 5, 61] {
        // Every third token, and the last ones.
        let mask = (0..rows as i32).map(|key| i32::from(key % 3 != 1 && key < 50)).collect();
        let attention = Attention { masked: true, ..plain(4, 1, 16) };
        check(Case { attention, queries: rows, keys: rows, past: 0, mask: Some(mask), rotated: true });
    }
}

#[test]
fn without_any_visible_key_the_result_is_zero() {
    let attention = Attention { masked: true, ..plain(2, 1, 8) };
    check(Case { attention, queries: 5, keys: 5, past: 0, mask: Some(vec![0; 5]), rotated: false });
}

#[test]
fn the_suffix_sees_the_past_and_its_own_and_earlier_blocks() {
    for (heads, kv_heads, past) in [(4, 1, 40), (6, 2, 7), (3, 3, 100)] {
        let blocks: Vec<u32> = [vec![0], vec![1; 9], vec![2; 3]].concat();
        let attention = Attention { past: true, masked: true, blocks, ..plain(heads, kv_heads, 20) };
        let mask = (0..past as i32).map(|key| i32::from(key % 4 != 0)).collect();
        check(Case { attention, queries: 13, keys: 13, past, mask: Some(mask), rotated: true });
    }
}

#[test]
fn queries_are_the_last_of_the_keys() {
    for blocks in [vec![], [vec![0; 4], vec![1; 9], vec![2; 4]].concat()] {
        let attention = Attention { past: true, blocks, ..plain(4, 1, 12) };
        check(Case { attention, queries: 15, keys: 17, past: 33, mask: None, rotated: true });
    }
}
