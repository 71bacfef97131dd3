//! A prompt to the model's tokens, by PaliGemma's rules. Called on the thread that received the prompt.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use tokenizers::Tokenizer;

use super::sentencepiece;

const JSON_FILE: &str = "tokenizer.json";
const MODEL_FILE: &str = "tokenizer.model";
const BOS: &str = "<bos>";
/// Token of the padding.
const PAD: i32 = 0;

/// PaliGemma's tokenizer, from a `tokenizer.json` or a SentencePiece model.
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    bos: u32,
}

/// Tokens as the model takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Padded with 0.
    pub ids: Vec<i32>,
    /// False for padding.
    pub mask: Vec<bool>,
}

impl PromptTokenizer {
    /// The file named explicitly, or the one in the checkpoint's folder.
    pub fn find(checkpoint: &Path, explicit: Option<&Path>) -> Result<Self, TokenizerError> {
        if let Some(path) = explicit {
            return Self::load(path);
        }
        let candidates = [JSON_FILE, MODEL_FILE].map(|name| checkpoint.join(name));
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Self::load(path),
            None => Err(TokenizerError::Missing(checkpoint.into())),
        }
    }

    /// A `.model` file is SentencePiece's, anything else a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let fail = |message: String| TokenizerError::Unreadable {
            file: path.into(),
            message,
        };
        let bytes = fs::read(path).map_err(|error| fail(error.to_string()))?;
        let (tokenizer, bos) = if path.extension().is_some_and(|extension| extension == "model") {
            sentencepiece::tokenizer(&bytes, BOS).map_err(fail)?
        } else {
            let tokenizer = Tokenizer::from_bytes(&bytes).map_err(|error| fail(error.to_string()))?;
            let bos = tokenizer.token_to_id(BOS);
            (tokenizer, bos)
        };
        let bos = bos.ok_or_else(|| fail(format!("it has no token '{BOS}'")))?;
        Ok(Self { tokenizer, bos })
    }

    /// `<bos>`, the prompt on one line, a newline; padded to `max_len` (openpi `PaligemmaTokenizer.tokenize`).
    pub fn encode(&self, prompt: &str, max_len: usize) -> Result<PromptTokens, TokenizerError> {
        let line = prompt.trim().replace(['_', '\n'], " ");
        let mut ids = vec![self.bos];
        for part in [line.as_str(), "\n"] {
            let encoding = self
                .tokenizer
                .encode(part, false)
                .map_err(|error| TokenizerError::Prompt {
                    prompt: prompt.into(),
                    message: error.to_string(),
                })?;
            ids.extend(encoding.get_ids());
        }
        if ids.len() > max_len {
            return Err(TokenizerError::TooLong {
                prompt: prompt.into(),
                tokens: ids.len(),
                max_len,
            });
        }
        let mask = (0..max_len).map(|index| index < ids.len()).collect();
        let ids = ids
            .into_iter()
            .map(|id| id as i32)
            .chain(std::iter::repeat(PAD))
            .take(max_len)
            .collect();
        Ok(PromptTokens { ids, mask })
    }
}

/// Writes a `tokenizer.json` of at most `vocabulary` tokens that can encode any text, for random checkpoints: bytes,
/// and a few characters in one token.
pub fn write_small_tokenizer(path: &Path, vocabulary: usize) -> std::io::Result<()> {
    let special = ["<pad>", "<eos>", BOS, "<unk>"].map(str::to_owned);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let characters = "▁abcdefghijklmnopqrstuvwxyz0123456789".chars().map(String::from);
    let tokens: Vec<String> = special
        .into_iter()
        .chain(bytes)
        .chain(characters)
        .take(vocabulary)
        .collect();
    let ids: serde_json::Map<String, serde_json::Value> = tokens
        .into_iter()
        .enumerate()
        .map(|(id, token)| (token, id.into()))
        .collect();
    let added: Vec<_> = ["<pad>", "<eos>", BOS, "<unk>"]
        .iter()
        .enumerate()
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "model": {"type": "BPE", "vocab": ids, "merges": [], "unk_token": "<unk>", "fuse_unk": true,
                  "byte_fallback": true},
    });
    fs::write(path, format!("{tokenizer:#}\n"))
}

/// A prompt or tokenizer that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    #[error(
        "{} has no tokenizer.json and no tokenizer.model; PaliGemma's is not part of a checkpoint: download it from \
         its publisher and name it with the parameter 'tokenizer'",
        .0.display()
    )]
    Missing(PathBuf),
    #[error("tokenizer {}: {message}", .file.display())]
    Unreadable { file: PathBuf, message: String },
    #[error("prompt '{prompt}' cannot be encoded: {message}")]
    Prompt { prompt: String, message: String },
    #[error("prompt '{prompt}' is {tokens} tokens long; the model takes {max_len}: shorten it")]
    TooLong {
        prompt: String,
        tokens: usize,
        max_len: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(vocabulary: usize) -> PromptTokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(JSON_FILE);
        write_small_tokenizer(&path, vocabulary).unwrap();
        PromptTokenizer::find(folder.path(), None).unwrap()
    }

    #[test]
    fn a_prompt_is_bos_text_newline_and_padding() {
        let tokenizer = small(320);
        let tokens = tokenizer.encode("  a_b\nc ", 10).unwrap();
        // <bos> a ▁ b ▁ c <0x0A>
        assert_eq!(tokens.ids, [2, 261, 260, 262, 260, 263, 14, 0, 0, 0]);
        assert_eq!(tokens.mask.iter().filter(|&&real| real).count(), 7);
    }

    #[test]
    fn any_text_has_tokens_inside_the_vocabulary() {
        for vocabulary in [260, 320, 2048] {
            let tokens = small(vocabulary).encode("Würfel 立方体 🤖 {}", 64).unwrap();
            assert!(
                tokens.ids.iter().all(|&id| (id as usize) < vocabulary && id != 3),
                "{tokens:?}"
            );
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_refused() {
        let error = small(320).encode("abcdef", 7).unwrap_err().to_string();
        assert_eq!(
            error,
            "prompt 'abcdef' is 8 tokens long; the model takes 7: shorten it"
        );
    }

    #[test]
    fn a_missing_or_foreign_tokenizer_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = PromptTokenizer::find(folder.path(), None)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("parameter 'tokenizer'"), "{error}");
        for name in ["broken.json", "broken.model"] {
            let path = folder.path().join(name);
            fs::write(&path, "{not a tokenizer").unwrap();
            let error = PromptTokenizer::load(&path).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
