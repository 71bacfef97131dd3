//! A tokenizer for random checkpoints, since PaliGemma's cannot be shipped. Called by the command that makes them.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// The special tokens, numbered as PaliGemma's.
const SPECIAL: [&str; 4] = ["<pad>", "<eos>", "<bos>", "<unk>"];

/// Words of robots' tasks, the commonest first: these, with the space before them, become one token each.
const WORDS: &str = "the cube and to up pick put in on it box arm right left transfer other red into from with of \
    over place hand robot table blue green drawer open close cup bottle towel fold stack push pull insert peg \
    socket lid bowl plate block ball button move grasp release lift lower turn take give hold small large first \
    second white black yellow";

/// Writes a `tokenizer.json` of at most `vocabulary` tokens that can encode any text: single bytes, common characters,
/// and as many common words as there is room for.
pub fn write_small_tokenizer(path: &Path, vocabulary: usize) -> std::io::Result<()> {
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let characters = "▁abcdefghijklmnopqrstuvwxyz0123456789".chars().map(String::from);
    let mut tokens: Vec<String> = SPECIAL
        .map(str::to_owned)
        .into_iter()
        .chain(bytes)
        .chain(characters)
        .collect();
    tokens.truncate(vocabulary);
    let merges = merge_words(&mut tokens, vocabulary);
    let ids: Map<String, Value> = tokens.into_iter().zip((0..).map(Value::from)).collect();
    let added: Vec<Value> = (0..)
        .zip(SPECIAL)
        .map(|(id, token): (u32, _)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {"type": "BPE", "vocab": ids, "merges": merges, "unk_token": "<unk>", "fuse_unk": true,
                  "byte_fallback": true},
    });
    fs::write(path, format!("{tokenizer:#}\n"))
}

/// Adds the words that still fit, and their beginnings, each of which is the one before and a character; returns
/// those merges. All begin with a space, so that no two of them ever compete for a character.
fn merge_words(tokens: &mut Vec<String>, vocabulary: usize) -> Vec<[String; 2]> {
    let mut merges = Vec::new();
    for word in WORDS.split_whitespace() {
        let mut beginnings = Vec::new();
        let mut beginning = String::from("▁");
        for character in word.chars().map(String::from) {
            let next = format!("{beginning}{character}");
            if !tokens.contains(&next) {
                beginnings.push((next.clone(), [beginning, character]));
            }
            beginning = next;
        }
        if tokens.len() + beginnings.len() > vocabulary {
            continue;
        }
        for (token, merge) in beginnings {
            tokens.push(token);
            merges.push(merge);
        }
    }
    merges
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::PromptTokenizer;

    fn small(vocabulary: usize) -> PromptTokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        write_small_tokenizer(&path, vocabulary).unwrap();
        PromptTokenizer::load(&path).unwrap()
    }

    #[test]
    fn any_text_has_tokens_inside_the_vocabulary() {
        for vocabulary in [260, 297, 320, 2048] {
            let tokens = small(vocabulary)
                .encode("the Würfel 立方体 🤖 {} of the box", 64)
                .unwrap();
            assert!(
                tokens.ids.iter().all(|&id| (id as usize) < vocabulary && id != 3),
                "{tokens:?}"
            );
        }
    }

    #[test]
    fn a_common_word_is_one_token() {
        let tokens = small(2048).encode("x the cube and theft", 48).unwrap();
        // <bos> x ▁the ▁cube ▁and ▁the f t <0x0A>
        assert_eq!(tokens.mask.iter().filter(|&&real| real).count(), 9, "{tokens:?}");
    }

    #[test]
    fn an_everyday_prompt_fits_the_published_length() {
        let prompt = "pick up the red cube with the right arm and transfer it to the left arm";
        small(2048).encode(prompt, 48).unwrap();
    }
}
