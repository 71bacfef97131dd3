//! The state in the prompt, as pi0.5 reads it: `Task: {task}, State: {numbers};\nAction: ` with a whole number from 0 to 255
//! for each joint. The task's tokens are made on the thread that received it; the numbers join them on the control thread,
//! before each perceive, from a table of every number's tokens. Nothing here allocates then.
//!
//! That a number's tokens do not depend on its neighbours is a property of the tokenizer: PaliGemma's splits digits. It is
//! proved when the table is made.

use std::ops::RangeInclusive;

use super::prompt::{PromptTokenizer, PromptTokens, TokenizerError, clean};

/// What numbers there are: the 256 bins, and -1 for what lies below them.
const NUMBERS: RangeInclusive<i32> = -1..=255;
/// Bins in a unit of the normalised state.
const BINS_PER_UNIT: f64 = 128.0;
/// What stands before the numbers, and behind them.
const BEFORE: &str = "State:";
const AFTER: &str = ";\nAction: ";
/// Numbers of a list that the table is tried on, and how many such lists.
const TRIED_NUMBERS: usize = 14;
const TRIED_LISTS: usize = 32;

/// The number of an element of a normalised state: how many of the edges -1, -1 + 1/128, .. 1 - 1/128 are not above it, less
/// one (openpi's `np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1`). So 255 above 1, and -1 below -1.
pub fn number(x: f64) -> i32 {
    // The product is exact, unlike a sum with 1.
    let bin = (x * BINS_PER_UNIT).floor() + BINS_PER_UNIT;
    bin.clamp(f64::from(*NUMBERS.start()), f64::from(*NUMBERS.end())) as i32
}

/// Whether an element of a normalised state lies in one of the bins.
pub fn is_inside(x: f64) -> bool {
    (-1.0..=1.0).contains(&x)
}

/// What a tokenizer makes of the parts of such a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePrompt {
    /// Tokens of ` -1`, ` 0`, .. ` 255`, one after another, and where each begins.
    numbers: Vec<i32>,
    starts: Vec<usize>,
    /// Tokens of `;\nAction: `.
    after: Vec<i32>,
    /// Numbers of a state.
    count: usize,
}

impl StatePrompt {
    /// The table for states of `count` numbers, or why this tokenizer has none.
    pub fn new(tokenizer: &PromptTokenizer, count: usize) -> Result<Self, TokenizerError> {
        let before = tokenizer.tokens(BEFORE)?;
        let mut prompt = Self { numbers: Vec::new(), starts: Vec::new(), after: Vec::new(), count };
        for number in NUMBERS {
            prompt.starts.push(prompt.numbers.len());
            prompt.numbers.extend(tokenizer.tokens_after(&before, &format!("{BEFORE} {number}"))?);
        }
        prompt.starts.push(prompt.numbers.len());
        let zero = tokenizer.tokens(&format!("{BEFORE} 0"))?;
        prompt.after = tokenizer.tokens_after(&zero, &format!("{BEFORE} 0{AFTER}"))?;
        prompt.prove(tokenizer, &before)?;
        Ok(prompt)
    }

    /// Lists of numbers must have the tokens that their numbers have alone. Where no token of the vocabulary reaches from one
    /// number to the next, they do, and a few lists show that nothing else is in the way; elsewhere all neighbours are tried.
    fn prove(&self, tokenizer: &PromptTokenizer, before: &[i32]) -> Result<(), TokenizerError> {
        let lists: Vec<Vec<i32>> = if tokenizer.splits_numbers() {
            let mut state = 1u32;
            let mut random = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as i32 % 257 - 1
            };
            (0..TRIED_LISTS).map(|_| (0..TRIED_NUMBERS).map(|_| random()).collect()).collect()
        } else {
            NUMBERS.map(|one| NUMBERS.flat_map(|other| [one, other]).collect()).collect()
        };
        for list in lists {
            let text: String = list.iter().map(|number| format!(" {number}")).collect();
            let whole = tokenizer.tokens(&format!("{BEFORE}{text}{AFTER}"))?;
            let parts = list.iter().flat_map(|&number| self.of(number)).chain(&self.after);
            if !before.iter().chain(parts).eq(&whole) {
                return Err(TokenizerError::Numbers { text });
            }
        }
        Ok(())
    }

    /// The task's tokens, up to where the state begins, if there is room for any state behind them.
    pub fn task(
        &self,
        tokenizer: &PromptTokenizer,
        prompt: &str,
        max_len: usize,
    ) -> Result<PromptTokens, TokenizerError> {
        let ids = tokenizer.start(&format!("Task: {}, {BEFORE}", clean(prompt)))?;
        let longest = *self.lengths(ids.len()).end();
        if longest > max_len {
            return Err(TokenizerError::TooLongWithState {
                prompt: prompt.into(),
                tokens: longest,
                numbers: self.count,
                max_len,
            });
        }
        Ok(PromptTokens::padded(ids, max_len))
    }

    /// How long a prompt can be whose task has so many tokens: with the shortest numbers, and with the longest.
    pub fn lengths(&self, task: usize) -> RangeInclusive<usize> {
        let each = || NUMBERS.map(|number| self.of(number).len());
        let with = |number: usize| task + self.count * number + self.after.len();
        with(each().min().unwrap_or(0))..=with(each().max().unwrap_or(0))
    }

    /// Every token that this can put into a prompt.
    pub fn tokens(&self) -> impl Iterator<Item = i32> {
        self.numbers.iter().chain(&self.after).copied()
    }

    /// `task` with a state of these numbers. Allocates nothing.
    pub fn write(&self, task: &PromptTokens, numbers: impl IntoIterator<Item = i32>, out: &mut PromptTokens) {
        out.ids.copy_from_slice(&task.ids);
        out.mask.copy_from_slice(&task.mask);
        let start = task.len();
        let state = numbers.into_iter().flat_map(|number| self.of(number)).chain(&self.after);
        // There is room for all of them: `task` saw to that.
        for ((id, real), &token) in out.ids.iter_mut().zip(&mut out.mask).skip(start).zip(state) {
            (*id, *real) = (token, true);
        }
    }

    /// Tokens of a number and the space before it.
    fn of(&self, number: i32) -> &[i32] {
        let index = (number.clamp(*NUMBERS.start(), *NUMBERS.end()) - NUMBERS.start()) as usize;
        &self.numbers[self.starts[index]..self.starts[index + 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_numpys_digitize() {
        for (x, expected) in [
            (-1.0, 0),
            (-1.0 - 1e-12, -1),
            (-3.0, -1),
            (0.0, 128),
            (-0.0, 128),
            (-1e-300, 127),
            (-1.0 / 128.0 - 1e-17, 126),
            (1.0 / 128.0, 129),
            (1.0 - 1e-9, 255),
            (1.0, 255),
            (7.0, 255),
        ] {
            assert_eq!(number(x), expected, "{x:e}");
        }
        assert!(is_inside(1.0) && is_inside(-1.0) && !is_inside(1.0001) && !is_inside(-1.0001));
    }

    fn tokenizers() -> Vec<PromptTokenizer> {
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/observe");
        let folder = tempfile::tempdir().unwrap();
        let small = folder.path().join("tokenizer.json");
        crate::observe::write_small_tokenizer(&small, 2048).unwrap();
        let names = ["pi05_like.model", "pi05_like.json", "paligemma_like.model", "trims_spaces.model"];
        let paths = names.iter().map(|name| data.join(name)).chain([small]);
        paths.map(|path| PromptTokenizer::load(&path).unwrap()).collect()
    }

    #[test]
    fn thousands_of_states_have_the_tokens_of_the_whole_text() {
        let mut random = 7u32;
        let mut below = |limit: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % limit
        };
        for tokenizer in tokenizers() {
            let tasks = ["pick up the red cube", "", "slot 42", " a_b ", "the 1 2 3;", "ééé"];
            let mut prompts: Vec<StatePrompt> = Vec::new();
            for count in 1..=14 {
                prompts.push(StatePrompt::new(&tokenizer, count).unwrap());
            }
            let mut out = PromptTokens::room(400);
            for _ in 0..3000 {
                let prompt = &prompts[below(14) as usize];
                let task = tasks[below(6) as usize];
                let numbers: Vec<i32> = (0..prompt.count).map(|_| below(257) as i32 - 1).collect();
                let text: String = numbers.iter().map(|number| format!(" {number}")).collect();
                let whole = format!("Task: {}, State:{text};\nAction: ", clean(task));
                let start = prompt.task(&tokenizer, task, 400).unwrap();
                prompt.write(&start, numbers, &mut out);
                assert_eq!(out.ids[..out.len()], tokenizer.start(&whole).unwrap(), "{whole}");
            }
        }
    }

    #[test]
    fn numbers_are_told_apart_by_the_vocabulary_or_tried() {
        for tokenizer in tokenizers() {
            assert!(tokenizer.splits_numbers());
        }
    }
}
