//! What messages for people have in common: how they repeat a text from outside, and how they list problems. Used by whoever makes
//! errors of what users, files and topics say.

use std::fmt::{self, Write};

/// A text from outside (a prompt, a parameter's value, the name of an encoding) as a message repeats it: on one line, and of a long one
/// the beginning and how long it is.
pub struct Shown<'a>(pub &'a str);

impl Shown<'_> {
    /// Characters by which a text is recognised.
    const MOST: usize = 80;
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        shorten(self.0, Self::MOST, f)
    }
}

/// As [`Shown`], with as many characters as are told.
pub fn shorten(text: &str, most: usize, out: &mut impl Write) -> fmt::Result {
    /// What says how long it is takes as many.
    const SLACK: usize = 20;
    // A terminal would obey control characters.
    let plain = |character: char| if character.is_control() { ' ' } else { character };
    let mut show =
        |count: usize| text.chars().take(count).try_for_each(|character| out.write_char(plain(character)));
    let length = text.chars().count();
    if length <= most + SLACK {
        return show(length);
    }
    show(most)?;
    write!(out, ".. ({length} characters)")
}

/// One problem on the same line, several on lines of their own, ten lines in all; and what may be behind them.
pub struct Listing<'a>(pub &'a [String], pub Option<&'a str>);

impl Listing<'_> {
    /// Beside the first line and the one that says how many there are more.
    const SHOWN: usize = 8;
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problems, guess) = self;
        if let ([one], None) = (&problems[..], guess) {
            return f.write_str(one);
        }
        write!(f, "{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" })?;
        if let Some(guess) = guess {
            write!(f, "; perhaps {guess}")?;
        }
        problems.iter().take(Self::SHOWN).try_for_each(|problem| write!(f, "\n  {problem}"))?;
        match problems.len().saturating_sub(Self::SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_shown_by_its_beginning_and_its_length() {
        assert_eq!(Shown("hand it\tover").to_string(), "hand it over");
        let just = "ä".repeat(80);
        for short in [&just, &"ä".repeat(100)] {
            assert_eq!(Shown(short).to_string(), *short);
        }
        assert_eq!(Shown(&"ä".repeat(101)).to_string(), format!("{just}.. (101 characters)"));
        let long = "ä".repeat(15_000);
        assert_eq!(Shown(&long).to_string(), format!("{just}.. (15000 characters)"));
    }

    #[test]
    fn of_many_problems_the_first_are_listed_and_the_others_counted() {
        let problems = |count: usize| (1..=count).map(|number| format!("no. {number}")).collect::<Vec<_>>();
        assert_eq!(Listing(&problems(1), None).to_string(), "no. 1");
        assert_eq!(Listing(&problems(1), Some("a slip")).to_string(), "1 problem; perhaps a slip\n  no. 1");
        let lines = Listing(&problems(1000), None).to_string();
        assert!(lines.starts_with("1000 problems\n  no. 1\n") && lines.ends_with("no. 8\n  and 992 more"));
    }
}
