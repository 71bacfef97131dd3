//! Shape inference: the type of an operation's result, or why there is none. Called by the builder for every node.

use super::op::{Attention, Op};
use super::tensor::{DType, TensorType};

/// The result type of `op` on operands of the given types.
pub(super) fn result_type(op: &Op, operands: &[&TensorType]) -> Result<TensorType, String> {
    match op {
        Op::Linear { .. } => {
            let (x, weight) = (matrix(operands, 0, "x")?, matrix(operands, 1, "weight")?);
            same("columns of x and of weight", x.1, weight.1)?;
            if operands.len() > 2 {
                row(operands, 2, "bias", weight.0)?;
            }
            count(operands, 2, 3)?;
            Ok(TensorType::f32([x.0, weight.0]))
        }
        Op::GatedLinear { .. } => {
            count(operands, 3, 3)?;
            let (x, gate) = (matrix(operands, 0, "x")?, matrix(operands, 1, "gate")?);
            same("columns of x and of gate", x.1, gate.1)?;
            same("up and gate", matrix(operands, 2, "up")?, gate)?;
            Ok(TensorType::f32([x.0, gate.0]))
        }
        Op::LayerNorm { .. } => {
            count(operands, 3, 3)?;
            let x = matrix(operands, 0, "x")?;
            vector(operands, 1, "weight", x.1)?;
            vector(operands, 2, "bias", x.1)?;
            Ok(operands[0].clone())
        }
        Op::RmsNorm { .. } => {
            count(operands, 2, 3)?;
            let x = matrix(operands, 0, "x")?;
            for (index, what) in [(1, "weight"), (2, "shift")].into_iter().take(operands.len() - 1) {
                if operands[index] != operands[0] {
                    row(operands, index, what, x.1)?;
                }
            }
            Ok(operands[0].clone())
        }
        Op::RotaryTable { head_dim, .. } => {
            count(operands, 1, 1)?;
            even("head_dim", *head_dim)?;
            Ok(TensorType::f32([list(operands, 0, "positions", DType::I32)?, *head_dim]))
        }
        Op::Rotary { heads } => {
            count(operands, 2, 2)?;
            let (x, table) = (matrix(operands, 0, "x")?, matrix(operands, 1, "table")?);
            same("rows of x and of the table", x.0, table.0)?;
            same("columns of x and heads * head_dim", x.1, heads * table.1)?;
            Ok(operands[0].clone())
        }
        Op::Attention(attention) => attention_type(attention, operands),
        Op::Embedding { .. } => {
            count(operands, 2, 2)?;
            let rows = list(operands, 0, "tokens", DType::I32)?;
            Ok(TensorType::f32([rows, matrix(operands, 1, "table")?.1]))
        }
        Op::Patchify { patch } => {
            count(operands, 1, 1)?;
            let [channels, height, width] = operands[0].shape[..] else {
                return Err(format!("image must be [channels, height, width], not {}", operands[0]));
            };
            if *patch == 0 || height % patch != 0 || width % patch != 0 {
                return Err(format!("a {height}x{width} image does not divide into {patch}x{patch} patches"));
            }
            Ok(TensorType::f32([height / patch * (width / patch), channels * patch * patch]))
        }
        Op::Concat { axis } => concat_type(*axis, operands),
        Op::Slice { axis, start, end } => {
            count(operands, 1, 1)?;
            matrix(operands, 0, "x")?;
            let mut ty = operands[0].clone();
            let Some(length) = ty.shape.get_mut(*axis) else {
                return Err(format!("no axis {axis}"));
            };
            if start >= end || *end > *length {
                return Err(format!("slice {start}..{end} of an axis of {length}"));
            }
            *length = end - start;
            Ok(ty)
        }
        Op::Repeat { rows } => {
            count(operands, 1, 1)?;
            let x = matrix(operands, 0, "x")?;
            same("rows of x and 1", x.0, 1)?;
            Ok(TensorType::f32([*rows, x.1]))
        }
        Op::Add | Op::Multiply => {
            count(operands, 2, 2)?;
            let (a, b) = (matrix(operands, 0, "a")?, matrix(operands, 1, "b")?);
            same("columns of a and b", a.1, b.1)?;
            if b.0 == 0 || a.0 % b.0 != 0 {
                return Err(format!("{} rows are not a multiple of {}", a.0, b.0));
            }
            Ok(operands[0].clone())
        }
        Op::Activate(_) => {
            count(operands, 1, 1)?;
            matrix(operands, 0, "x")?;
            Ok(operands[0].clone())
        }
        Op::EulerStep { .. } => {
            count(operands, 2, 2)?;
            same("shapes of x and v", &matrix(operands, 0, "x")?, &matrix(operands, 1, "v")?)?;
            Ok(operands[0].clone())
        }
        Op::Guide { .. } => {
            count(operands, 4, 4)?;
            let x = matrix(operands, 0, "x")?;
            same("shapes of x and y", &x, &matrix(operands, 1, "y")?)?;
            same("shapes of x and previous", &x, &matrix(operands, 2, "previous")?)?;
            same("w and a number for each row", matrix(operands, 3, "w")?, (x.0, 1))?;
            Ok(operands[0].clone())
        }
        Op::Choose => {
            count(operands, 3, 3)?;
            let (a, b, w) = (matrix(operands, 0, "a")?, matrix(operands, 1, "b")?, matrix(operands, 2, "w")?);
            same("columns of a and b", a.1, b.1)?;
            same("columns of w and 1", w.1, 1)?;
            for (what, rows) in [("rows of a and w", a.0), ("rows of b and w", b.0)] {
                if rows != 1 {
                    same(what, rows, w.0)?;
                }
            }
            Ok(TensorType::f32([w.0, a.1]))
        }
        Op::PrefixMask { image_tokens } => {
            count(operands, 2, 2)?;
            let images = list(operands, 0, "image masks", DType::Bool)?;
            let tokens = list(operands, 1, "token mask", DType::Bool)?;
            Ok(TensorType::new(DType::Bool, [images * image_tokens + tokens]))
        }
        Op::Positions => {
            count(operands, 1, 1)?;
            Ok(TensorType::new(DType::I32, [list(operands, 0, "mask", DType::Bool)?]))
        }
        Op::PositionsAfter { rows } => {
            count(operands, 1, 1)?;
            list(operands, 0, "mask", DType::Bool)?;
            Ok(TensorType::new(DType::I32, [*rows]))
        }
    }
}

fn attention_type(attention: &Attention, operands: &[&TensorType]) -> Result<TensorType, String> {
    let Attention { heads, kv_heads, head_dim, sequences, past, masked, ref blocks, .. } = *attention;
    let expected = 3 + 2 * usize::from(past) + usize::from(masked);
    count(operands, expected, expected)?;
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(format!("{heads} query heads do not share {kv_heads} key heads evenly"));
    }
    let query = matrix(operands, 0, "query")?;
    same("columns of query and heads * head_dim", query.1, heads * head_dim)?;
    let rows = query.0;
    let key = matrix(operands, 1, "key")?;
    same("columns of key and kv_heads * head_dim", key.1, kv_heads * head_dim)?;
    same("value and key", matrix(operands, 2, "value")?, key)?;
    if key.0 < rows || (sequences != 1 && key.0 != rows) {
        return Err(format!("{rows} queries cannot be the last of {} keys", key.0));
    }
    let own = key.0;
    let mut keys = own;
    if past {
        let key = matrix(operands, 3, "past key")?;
        same("columns of past key and kv_heads * head_dim", key.1, kv_heads * head_dim)?;
        same("past value and past key", matrix(operands, 4, "past value")?, key)?;
        keys = key.0;
    }
    if masked {
        same("mask and keys", list(operands, expected - 1, "mask", DType::Bool)?, keys)?;
    }
    if sequences == 0 || rows % sequences != 0 || (sequences > 1 && (past || masked || !blocks.is_empty())) {
        return Err(format!("{rows} rows cannot be {sequences} independent sequences"));
    }
    if !blocks.is_empty() {
        same("block numbers and keys", blocks.len(), own)?;
        if !blocks.is_sorted() {
            return Err("block numbers must never decrease".into());
        }
    }
    Ok(operands[0].clone())
}

fn concat_type(axis: usize, operands: &[&TensorType]) -> Result<TensorType, String> {
    if let (0, Some(TensorType { dtype: DType::F32, shape })) = (axis, operands.first())
        && shape.len() == 1
    {
        let lengths = (0..operands.len()).map(|index| list(operands, index, "part", DType::F32));
        return Ok(TensorType::f32([lengths.sum::<Result<usize, _>>()?]));
    }
    let first = matrix(operands, 0, "part 0")?;
    let mut joined = [first.0, first.1];
    if axis > 1 {
        return Err(format!("matrices have no axis {axis}"));
    }
    for index in 1..operands.len() {
        let part = matrix(operands, index, "part")?;
        let part = [part.0, part.1];
        same("lengths of the other axis", part[1 - axis], joined[1 - axis])?;
        joined[axis] += part[axis];
    }
    Ok(TensorType::f32(joined))
}

fn count(operands: &[&TensorType], least: usize, most: usize) -> Result<(), String> {
    if (least..=most).contains(&operands.len()) {
        Ok(())
    } else {
        Err(format!("takes {least} to {most} operands, not {}", operands.len()))
    }
}

fn operand<'a>(operands: &[&'a TensorType], index: usize, what: &str) -> Result<&'a TensorType, String> {
    operands.get(index).copied().ok_or_else(|| format!("operand {index} ({what}) is missing"))
}

fn matrix(operands: &[&TensorType], index: usize, what: &str) -> Result<(usize, usize), String> {
    let ty = operand(operands, index, what)?;
    match (ty.dtype, &ty.shape[..]) {
        (DType::F32, &[rows, columns]) if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(format!("{what} must be a non-empty f32 matrix, not {ty}")),
    }
}

fn vector(operands: &[&TensorType], index: usize, what: &str, length: usize) -> Result<(), String> {
    same(what, operand(operands, index, what)?, &TensorType::f32([length]))
}

/// A list, or a matrix of one row.
fn row(operands: &[&TensorType], index: usize, what: &str, length: usize) -> Result<(), String> {
    match operands.get(index) {
        Some(ty) if **ty == TensorType::f32([1, length]) => Ok(()),
        _ => vector(operands, index, what, length),
    }
}

fn list(operands: &[&TensorType], index: usize, what: &str, dtype: DType) -> Result<usize, String> {
    let ty = operand(operands, index, what)?;
    match ty.shape[..] {
        [length] if ty.dtype == dtype && length > 0 => Ok(length),
        _ => Err(format!("{what} must be a non-empty {dtype} list, not {ty}")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

fn even(what: &str, number: usize) -> Result<(), String> {
    if number > 0 && number.is_multiple_of(2) {
        Ok(())
    } else {
        Err(format!("{what} must be even, not {number}"))
    }
}
