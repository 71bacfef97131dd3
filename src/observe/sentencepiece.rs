//! Reads a SentencePiece model (`tokenizer.model`, a protocol buffer) into the `tokenizers` library, which cannot read
//! it itself. Called by `prompt`.
//!
//! Only what PaliGemma's kind of model uses: BPE, byte fallback, user-defined symbols, spaces as `▁`, no
//! text normalisation, no space put in front.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::Sequence;
use tokenizers::normalizers::replace::{Replace, ReplacePattern};
use tokenizers::{AddedToken, Tokenizer};

/// A symbol of the vocabulary; its number is its position.
struct Piece {
    text: String,
    score: f32,
    kind: u64,
}

// Kinds of pieces (`ModelProto.SentencePiece.Type`).
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const USER_DEFINED: u64 = 4;

// Kinds of models (`TrainerSpec.ModelType`).
const UNIGRAM: u64 = 1;
const BPE_MODEL: u64 = 2;

struct Model {
    pieces: Vec<Piece>,
    kind: u64,
    byte_fallback: bool,
    add_dummy_prefix: bool,
    remove_extra_spaces: bool,
    escape_spaces: bool,
    normalizes: bool,
}

/// The tokenizer that a serialised `ModelProto` describes.
pub(super) fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    let model = parse(bytes).ok_or("it is not a SentencePiece model, or cut short")?;
    if model.pieces.is_empty() {
        return Err("its vocabulary is empty".into());
    }
    if model.add_dummy_prefix || model.normalizes || !model.escape_spaces {
        return Err(
            "it normalises text, puts a space in front or keeps spaces, which PaliGemma's tokenizer does not"
                .into(),
        );
    }
    if model.kind != BPE_MODEL {
        return Err("it is not a BPE model, as PaliGemma's tokenizer is".into());
    }
    let mut tokenizer = Tokenizer::new(bpe(&model)?);
    tokenizer.with_normalizer(Some(
        spaces(model.remove_extra_spaces).map_err(|error| error.to_string())?,
    ));
    // Matched in the text with its spaces replaced, before anything else. Control symbols are never matched in text.
    let symbols: Vec<AddedToken> = model
        .pieces
        .iter()
        .filter(|piece| piece.kind == USER_DEFINED)
        .map(|piece| AddedToken::from(piece.text.clone(), false).normalized(true))
        .collect();
    tokenizer.add_tokens(&symbols);
    Ok(tokenizer)
}

/// Spaces become `▁`; where a model wants it, only one between two words.
fn spaces(remove_extra: bool) -> tokenizers::Result<Sequence> {
    let mut steps = Vec::new();
    if remove_extra {
        steps.push(Replace::new(ReplacePattern::Regex("^ +| +$".into()), "")?.into());
        steps.push(Replace::new(ReplacePattern::Regex(" +".into()), " ")?.into());
    }
    steps.push(Replace::new(" ", "▁")?.into());
    Ok(Sequence::new(steps))
}

/// SentencePiece merges the neighbours whose union has the best score; as a list of merges: every way to split a piece
/// into two others, best piece first.
fn bpe(model: &Model) -> Result<BPE, String> {
    let ids: HashMap<&str, u32> = (0..)
        .zip(&model.pieces)
        .map(|(id, piece)| (piece.text.as_str(), id))
        .collect();
    let mut merged: Vec<&Piece> = model.pieces.iter().filter(|piece| piece.kind == NORMAL).collect();
    merged.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut merges = Vec::new();
    for piece in merged {
        let splits = piece
            .text
            .char_indices()
            .skip(1)
            .map(|(index, _)| piece.text.split_at(index));
        let known = splits.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        merges.extend(known.map(|(left, right)| (left.to_owned(), right.to_owned())));
    }
    let vocabulary = ids
        .iter()
        .map(|(&text, &id)| (text.to_owned(), id))
        .collect::<HashMap<_, _>>();
    let mut builder = BPE::builder()
        .vocab_and_merges(
            vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(),
            merges,
        )
        .byte_fallback(model.byte_fallback)
        .fuse_unk(true);
    if let Some(unknown) = model.pieces.iter().find(|piece| piece.kind == UNKNOWN) {
        builder = builder.unk_token(unknown.text.clone());
    }
    builder.build().map_err(|error| error.to_string())
}

/// The fields of `sentencepiece_model.proto` that matter here; `None` if the bytes are no such message.
fn parse(bytes: &[u8]) -> Option<Model> {
    let mut model = Model {
        pieces: Vec::new(),
        kind: UNIGRAM,
        byte_fallback: false,
        add_dummy_prefix: true,
        remove_extra_spaces: true,
        escape_spaces: true,
        normalizes: false,
    };
    for field in fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
            (2, Wire::Bytes(trainer)) => {
                for field in fields(trainer) {
                    match field? {
                        (3, Wire::Number(kind)) => model.kind = kind,
                        (35, Wire::Number(flag)) => model.byte_fallback = flag != 0,
                        _ => {}
                    }
                }
            }
            (3, Wire::Bytes(normalizer)) => {
                for field in fields(normalizer) {
                    match field? {
                        (2, Wire::Bytes(map)) => model.normalizes = !map.is_empty(),
                        (3, Wire::Number(flag)) => model.add_dummy_prefix = flag != 0,
                        (4, Wire::Number(flag)) => model.remove_extra_spaces = flag != 0,
                        (5, Wire::Number(flag)) => model.escape_spaces = flag != 0,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(model)
}

fn parse_piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: NORMAL,
    };
    for field in fields(bytes) {
        match field? {
            (1, Wire::Bytes(text)) => piece.text = String::from_utf8(text.into()).ok()?,
            (2, Wire::Word(bits)) => piece.score = f32::from_bits(bits),
            (3, Wire::Number(kind)) => piece.kind = kind,
            _ => {}
        }
    }
    Some(piece)
}

/// One field's value as it stands in a protocol buffer.
enum Wire<'a> {
    Number(u64),
    Word(u32),
    Long,
    Bytes(&'a [u8]),
}

/// Field numbers and values of a message; ends with `None` where the bytes are damaged.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Wire<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = next_field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field)
    })
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Wire<'a>)> {
    let tag = number(bytes)?;
    let value = match tag & 7 {
        0 => Wire::Number(number(bytes)?),
        1 => {
            take(bytes, 8)?;
            Wire::Long
        }
        2 => {
            let length = usize::try_from(number(bytes)?).ok()?;
            Wire::Bytes(take(bytes, length)?)
        }
        5 => Wire::Word(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// A variable-length number: 7 bits a byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}
