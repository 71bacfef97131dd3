//! A prompt to the model's tokens, by PaliGemma's rules. Called on the thread that received the prompt; `state_prompt` has the
//! rules of prompts with a state in them.

use std::fs;
use std::path::{Path, PathBuf};

use tokenizers::Tokenizer;

use super::sentencepiece;
use crate::wording::Shown;

/// The published names: Hugging Face's two, and openpi's.
const FILES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "paligemma_tokenizer.model"];
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
        let candidates = FILES.map(|name| checkpoint.join(name));
        match candidates.iter().find(|path| path.is_file()) {
            Some(path) => Self::load(path),
            None => Err(TokenizerError::Missing(checkpoint.into())),
        }
    }

    /// A `.model` file is SentencePiece's, anything else a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self, TokenizerError> {
        let fail = |message: String| TokenizerError::Unreadable { file: path.into(), message };
        let bytes = fs::read(path).map_err(|error| fail(error.to_string()))?;
        if bytes.starts_with(b"version https://git-lfs") {
            return Err(fail(
                "it is a Git LFS pointer, not the file itself: `git lfs pull` fetches that".into(),
            ));
        }
        let tokenizer = if path.extension().is_some_and(|extension| extension == "model") {
            sentencepiece::tokenizer(&bytes).map_err(fail)?
        } else {
            Tokenizer::from_bytes(&bytes).map_err(|error| fail(error.to_string()))?
        };
        let bos = tokenizer.token_to_id(BOS).ok_or_else(|| fail(format!("it has no token '{BOS}'")))?;
        Ok(Self { tokenizer, bos })
    }

    /// `<bos>`, the prompt on one line, a newline; padded to `max_len` (openpi's
    /// `PaligemmaTokenizer.tokenize`, except that it cuts a long prompt; lerobot leaves `_` and spaces as they are).
    pub fn encode(&self, prompt: &str, max_len: usize) -> Result<PromptTokens, TokenizerError> {
        let mut ids = self.start(&clean(prompt))?;
        ids.extend(self.tokens("\n")?);
        if ids.len() > max_len {
            return Err(TokenizerError::TooLong { prompt: prompt.into(), tokens: ids.len(), max_len });
        }
        Ok(PromptTokens::padded(ids, max_len))
    }

    /// `<bos>`, then the text's tokens.
    pub(super) fn start(&self, text: &str) -> Result<Vec<i32>, TokenizerError> {
        let mut ids = vec![self.bos as i32];
        ids.extend(self.tokens(text)?);
        Ok(ids)
    }

    /// The text's tokens.
    pub(super) fn tokens(&self, text: &str) -> Result<Vec<i32>, TokenizerError> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|error| TokenizerError::Prompt { prompt: text.into(), message: error.to_string() })?;
        Ok(encoding.get_ids().iter().map(|&id| id as i32).collect())
    }

    /// The text's tokens behind those of its beginning, if these are the same in it.
    pub(super) fn tokens_after(&self, beginning: &[i32], text: &str) -> Result<Vec<i32>, TokenizerError> {
        let whole = self.tokens(text)?;
        let rest = whole.strip_prefix(beginning);
        rest.map(<[i32]>::to_vec).ok_or_else(|| TokenizerError::Numbers { text: text.into() })
    }

    /// Whether no token reaches from a number into what stands beside it in a prompt's state: a colon or a digit and a space,
    /// a digit and a semicolon. False as well where spaces are no symbols of their own, so that nobody can tell.
    pub(super) fn splits_numbers(&self) -> bool {
        const SPACE: char = '▁';
        let vocabulary = self.tokenizer.get_vocab(true);
        let reaches = |token: &String| {
            token.chars().zip(token.chars().skip(1)).any(|(first, second)| match second {
                SPACE => first == ':' || first.is_ascii_digit(),
                ';' => first.is_ascii_digit(),
                _ => false,
            })
        };
        vocabulary.contains_key("▁") && !vocabulary.keys().any(reaches)
    }
}

/// A prompt on one line, as openpi and lerobot clean it.
pub(super) fn clean(prompt: &str) -> String {
    // As Python strips: the four separators of ASCII are spaces to it.
    prompt
        .trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
        .replace(['_', '\n'], " ")
}

impl PromptTokens {
    /// These tokens, of which there are at most `max_len`, and padding.
    pub(super) fn padded(ids: Vec<i32>, max_len: usize) -> Self {
        let mask = (0..max_len).map(|index| index < ids.len()).collect();
        let ids = ids.into_iter().chain(std::iter::repeat(PAD)).take(max_len).collect();
        Self { ids, mask }
    }

    /// Room for so many tokens, of which none is real.
    pub fn room(max_len: usize) -> Self {
        Self::padded(Vec::new(), max_len)
    }

    /// How many tokens there are before the padding.
    pub fn len(&self) -> usize {
        self.mask.iter().rposition(|&real| real).map_or(0, |last| last + 1)
    }

    /// Whether all is padding.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
    #[error("prompt '{}' cannot be encoded: {message}", Shown(.prompt))]
    Prompt { prompt: String, message: String },
    #[error(
        "prompt '{}' has token {token}, but the model's vocabulary ends at {last}: this tokenizer is not the checkpoint's",
        Shown(.prompt)
    )]
    OutsideVocabulary { prompt: String, token: i32, last: usize },
    #[error("prompt '{}' is {tokens} tokens long; the model takes {max_len}: shorten it", Shown(.prompt))]
    TooLong { prompt: String, tokens: usize, max_len: usize },
    #[error(
        "prompt '{}' can be {tokens} tokens long with a state of {numbers} numbers; the model takes {max_len}: shorten it",
        Shown(.prompt)
    )]
    TooLongWithState { prompt: String, tokens: usize, numbers: usize, max_len: usize },
    #[error(
        "this tokenizer joins the numbers of a state with what stands beside them ('{}'), which PaliGemma's does not: it is not the \
         checkpoint's",
        Shown(.text)
    )]
    Numbers { text: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The small tokenizer of 320 tokens.
    fn small() -> PromptTokenizer {
        let folder = tempfile::tempdir().unwrap();
        crate::observe::write_small_tokenizer(&folder.path().join("tokenizer.json"), 320).unwrap();
        PromptTokenizer::find(folder.path(), None).unwrap()
    }

    #[test]
    fn a_prompt_is_bos_text_newline_and_padding() {
        let tokens = small().encode("  x_q\nz ", 10).unwrap();
        // <bos> x ▁ q ▁ z <0x0A>
        assert_eq!(tokens.ids, [2, 284, 260, 277, 260, 286, 14, 0, 0, 0]);
        assert_eq!(tokens.mask.iter().filter(|&&real| real).count(), 7);
    }

    #[test]
    fn a_prompt_that_is_too_long_is_refused() {
        let error = small().encode("abcdef", 7).unwrap_err().to_string();
        assert_eq!(error, "prompt 'abcdef' is 8 tokens long; the model takes 7: shorten it");
        assert!(small().encode("abcdef", 8).is_ok());
    }

    #[test]
    fn a_very_long_prompt_is_not_repeated_whole() {
        let error = small().encode(&"cube ".repeat(3000), 48).unwrap_err().to_string();
        assert!(error.contains("cube .. (15000 characters)' is ") && error.len() < 200, "{error}");
    }

    #[test]
    fn a_missing_or_foreign_tokenizer_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = PromptTokenizer::find(folder.path(), None).err().unwrap();
        assert!(error.to_string().contains("parameter 'tokenizer'"), "{error}");
        for name in ["broken.json", "broken.model"] {
            let path = folder.path().join(name);
            fs::write(&path, "{not a tokenizer").unwrap();
            let error = PromptTokenizer::load(&path).err().unwrap().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
