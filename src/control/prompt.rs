//! Prompts as the model takes them, with the state of the joints in them or without: what `policy` says of the model and what
//! `observe` knows of tokens put together. Called by the prompt's input, by the cycle and by `check`.

use std::ops::RangeInclusive;
use std::path::Path;

use crate::observe::state_prompt::{is_inside, number};
use crate::observe::{PromptTokenizer, PromptTokens, StatePrompt, TokenizerError, Trained};
use crate::policy::{PolicyConfig, StateInput};

/// What statistics are to a model.
pub fn trained(config: &PolicyConfig) -> Trained {
    let PolicyConfig { state_dim, action_dim, variant, .. } = *config;
    Trained { state_dim, action_dim, quantiles: variant.quantiles }
}

/// What is to be said of a task without a word. The model takes it, as those who train it do.
pub fn empty_task(task: &str) -> Option<&'static str> {
    let is_blank = |character: char| character.is_whitespace() || character == '_';
    task.chars().all(is_blank).then_some(
        "the task is empty, so the model is told none: set the parameter 'prompt' or publish one on ~/prompt, unless the policy was \
         trained without",
    )
}

/// How prompts become tokens for a model.
pub struct Prompts {
    tokenizer: PromptTokenizer,
    /// Where the state is in them.
    state: Option<StatePrompt>,
    /// How many numbers there are besides the joints'.
    padding: usize,
    /// Tokens that the model takes.
    length: usize,
    vocabulary: usize,
}

impl Prompts {
    /// With the tokenizer that is named explicitly, or the one in the checkpoint's folder, for a robot of `joints` joints.
    pub fn load(
        checkpoint: &Path,
        explicit: Option<&Path>,
        config: &PolicyConfig,
        joints: usize,
    ) -> Result<Self, TokenizerError> {
        let tokenizer = PromptTokenizer::find(checkpoint, explicit)?;
        let numbers = match config.variant.state {
            StateInput::Prompt { padded: true } => Some(config.state_dim.max(joints)),
            StateInput::Prompt { padded: false } => Some(joints),
            StateInput::Token | StateInput::Nowhere => None,
        };
        let state = numbers.map(|count| StatePrompt::new(&tokenizer, count)).transpose()?;
        let prompts = Self {
            tokenizer,
            padding: numbers.map_or(0, |count| count - joints),
            length: config.prompt_tokens,
            vocabulary: config.vocabulary,
            state,
        };
        let numbers = prompts.state.iter().flat_map(StatePrompt::tokens);
        prompts.check("State: ..", numbers)?;
        Ok(prompts)
    }

    /// All tokens of a prompt, or those of its task where the state comes behind them.
    pub fn encode(&self, prompt: &str) -> Result<PromptTokens, TokenizerError> {
        let tokens = match &self.state {
            Some(state) => state.task(&self.tokenizer, prompt, self.length)?,
            None => self.tokenizer.encode(prompt, self.length)?,
        };
        self.check(prompt, tokens.ids.iter().copied())?;
        Ok(tokens)
    }

    /// How many tokens there are of a prompt, whatever the state.
    pub fn lengths(&self, tokens: &PromptTokens) -> RangeInclusive<usize> {
        let encoded = tokens.len();
        self.state.as_ref().map_or(encoded..=encoded, |state| state.lengths(encoded))
    }

    /// Tokens that the model has: another model's tokenizer would give others.
    fn check(&self, prompt: &str, mut ids: impl Iterator<Item = i32>) -> Result<(), TokenizerError> {
        match ids.find(|&id| id as usize >= self.vocabulary) {
            None => Ok(()),
            Some(token) => {
                let last = self.vocabulary - 1;
                Err(TokenizerError::OutsideVocabulary { prompt: prompt.into(), token, last })
            }
        }
    }

    /// What puts the state into the prompt, where it is in it.
    pub(super) fn writer(&self) -> Option<StateWriter> {
        let (prompt, padding) = (self.state.clone()?, self.padding);
        Some(StateWriter { prompt, padding, tokens: PromptTokens::room(self.length) })
    }
}

/// Puts the state into the prompt, on the control thread.
pub(super) struct StateWriter {
    prompt: StatePrompt,
    padding: usize,
    tokens: PromptTokens,
}

impl StateWriter {
    /// The prompt of a task with a normalised state, and whether all of it lies inside the bins. Allocates nothing.
    pub fn write(&mut self, task: &PromptTokens, state: impl Iterator<Item = f64>) -> (&PromptTokens, bool) {
        let mut inside = true;
        let joints = state.map(|x| {
            inside &= is_inside(x);
            number(x)
        });
        let padding = std::iter::repeat_n(number(0.0), self.padding);
        self.prompt.write(task, joints.chain(padding), &mut self.tokens);
        (&self.tokens, inside)
    }

    /// How many tokens there are of a task's prompt, whatever the state.
    pub fn lengths(&self, task: &PromptTokens) -> RangeInclusive<usize> {
        self.prompt.lengths(task.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_without_a_word_is_remarked_upon() {
        for empty in ["", "  \n", "__"] {
            assert!(empty_task(empty).unwrap().contains("~/prompt"));
        }
        assert_eq!(empty_task("Transfer cube"), None);
    }
}
