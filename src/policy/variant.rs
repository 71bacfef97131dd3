//! What the members of pi0's family differ in, said once. Graphs (and with them checkpoint keys), prompts, statistics and
//! checks read these properties; none of them asks which model it is.

use std::fmt;

/// A member of pi0's family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The name in a checkpoint's `type`, and for people.
    pub name: &'static str,
    pub state: StateInput,
    pub time: TimeInput,
    /// Prompt tokens, padding included, of a checkpoint that does not say how many.
    pub prompt_tokens: usize,
    /// Whether openpi normalises by quantiles (its `use_quantile_norm`), or by mean and deviation.
    pub quantiles: bool,
    /// Tensors that this member has and no other.
    pub own_tensors: &'static [&'static str],
}

/// How the state of the joints comes to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateInput {
    /// As the suffix's first token, so it is read before each act.
    Token,
    /// As whole numbers in the prompt, so it is read before each perceive.
    Prompt {
        /// As many numbers as the model's states are wide, those behind the joints for a state of 0: lerobot 0.4. All
        /// others write the joints' alone.
        padded: bool,
    },
    /// Not at all.
    Nowhere,
}

/// How the time of the flow comes to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeInput {
    /// Joined with every action (`action_time_mlp_in`, `action_time_mlp_out`).
    Actions,
    /// As scale, shift and gate of every norm of the expert (adaRMS; `time_mlp_in`, `time_mlp_out`).
    Norms,
}

impl Variant {
    pub const PI0: Self = Self {
        name: "pi0",
        state: StateInput::Token,
        time: TimeInput::Actions,
        prompt_tokens: 48,
        quantiles: false,
        own_tensors: &["state_proj.weight", "action_time_mlp_in.weight"],
    };

    pub const PI05: Self = Self {
        name: "pi05",
        state: StateInput::Prompt { padded: false },
        time: TimeInput::Norms,
        prompt_tokens: 200,
        quantiles: true,
        own_tensors: &["time_mlp_in.weight"],
    };

    pub const ALL: [Self; 2] = [Self::PI0, Self::PI05];

    /// The member of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name == name)
    }

    /// The member that alone has some of its own tensors among those of a checkpoint.
    pub fn of_tensors(has: impl Fn(&str) -> bool) -> Option<Self> {
        let mut there =
            Self::ALL.into_iter().filter(|variant| variant.own_tensors.iter().any(|tensor| has(tensor)));
        match (there.next(), there.next()) {
            (Some(one), None) => Some(one),
            _ => None,
        }
    }

    /// Suffix tokens before the actions'.
    pub fn state_tokens(&self) -> usize {
        usize::from(self.state == StateInput::Token)
    }
}

/// `in the prompt`
impl fmt::Display for StateInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "a token of its own",
            Self::Prompt { padded: false } => "in the prompt",
            Self::Prompt { padded: true } => "in the prompt, padded to the model's dimensions",
            Self::Nowhere => "no input of the model",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_tell_the_member_where_they_agree() {
        let of = |tensors: &[&str]| Variant::of_tensors(|key| tensors.contains(&key)).map(|found| found.name);
        assert_eq!(of(&["action_in_proj.weight", "state_proj.weight"]), Some("pi0"));
        assert_eq!(of(&["action_in_proj.weight", "time_mlp_in.weight"]), Some("pi05"));
        assert_eq!(of(&["action_in_proj.weight"]), None);
        assert_eq!(of(&["time_mlp_in.weight", "state_proj.weight"]), None);
    }
}
