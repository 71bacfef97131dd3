//! What is wrong with messages, said once and then counted: a camera that sends nonsense thirty times a second gets a line, another
//! when it has done so ten times, a hundred times and so on, and a line in the table at the end. Filled by `control`'s inputs, told by
//! the edges; never touched by the control thread.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Kinds that are told apart; what comes beyond them counts as the last.
const MOST_KINDS: usize = 100;

/// Something that is wrong with the messages of one sensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// The sensor.
    pub about: String,
    /// What was said the first time.
    pub text: String,
    pub count: u64,
    /// When, by the clock of the messages' receivers, in nanoseconds.
    pub first_ns: i64,
    pub last_ns: i64,
}

/// All complaints of a node.
#[derive(Debug, Default)]
pub struct Complaints {
    list: Mutex<Vec<Kind>>,
    /// Whether a line waits to be told.
    any_news: AtomicBool,
}

#[derive(Debug)]
struct Kind {
    complaint: Complaint,
    /// The text without its numbers.
    pattern: String,
    is_due: bool,
}

impl Complaints {
    /// Counts a complaint; texts that differ in numbers alone are one kind.
    pub fn add(&self, about: &str, text: &dyn fmt::Display, at_ns: i64) {
        let text = text.to_string();
        self.add_kind(about, without_numbers(&text), text, at_ns);
    }

    /// Counts a complaint of a kind that is one whatever its text says.
    pub fn add_kind(&self, about: &str, pattern: String, text: String, at_ns: i64) {
        let mut list = self.lock();
        let known = list.iter().position(|kind| kind.complaint.about == about && kind.pattern == pattern);
        let place = match known {
            Some(place) => place,
            None if list.len() < MOST_KINDS => {
                let complaint =
                    Complaint { about: about.into(), text, count: 0, first_ns: at_ns, last_ns: at_ns };
                list.push(Kind { complaint, pattern, is_due: false });
                list.len() - 1
            }
            None => MOST_KINDS - 1,
        };
        let kind = &mut list[place];
        kind.complaint.count += 1;
        kind.complaint.last_ns = at_ns;
        if is_power_of_ten(kind.complaint.count) {
            kind.is_due = true;
            self.any_news.store(true, Relaxed);
        }
    }

    /// The lines that are to be told now; they count as told.
    pub fn news(&self) -> Vec<String> {
        if !self.any_news.swap(false, Relaxed) {
            return Vec::new();
        }
        let mut list = self.lock();
        let due = list.iter_mut().filter_map(|kind| {
            std::mem::take(&mut kind.is_due).then(|| {
                let Complaint { about, text, count, .. } = &kind.complaint;
                if *count == 1 { format!("{about}: {text}") } else { kind.complaint.to_string() }
            })
        });
        due.collect()
    }

    /// All kinds, in the order in which they came.
    pub fn list(&self) -> Vec<Complaint> {
        self.lock().iter().map(|kind| kind.complaint.clone()).collect()
    }

    /// A thread that panicked left the list whole.
    fn lock(&self) -> MutexGuard<'_, Vec<Kind>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `base_0_rgb: .. (12 times, first at 3.200, last at 4.300)`
impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { about, text, count, first_ns, last_ns } = self;
        let seconds = |ns: i64| {
            format!("{}.{:03}", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) / 1_000_000)
        };
        match count {
            1 => write!(f, "{about}: {text} (once, at {})", seconds(*first_ns)),
            _ => write!(
                f,
                "{about}: {text} ({count} times, first at {}, last at {})",
                seconds(*first_ns),
                seconds(*last_ns)
            ),
        }
    }
}

fn is_power_of_ten(count: u64) -> bool {
    10_u64.checked_pow(count.ilog10()) == Some(count)
}

/// Every run of digits as one sign.
fn without_numbers(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '0'..='9' if pattern.ends_with('#') => {}
            '0'..='9' => pattern.push('#'),
            other => pattern.push(other),
        }
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_told_first_and_then_counted() {
        let complaints = Complaints::default();
        let mut told = Vec::new();
        for number in 0..150_i64 {
            complaints.add("top", &format!("data has {number} bytes"), number * 1_000_000_000);
            told.extend(complaints.news());
        }
        complaints.add("left", &"data has 3 bytes", 7);
        told.extend(complaints.news());
        assert_eq!(
            told,
            [
                "top: data has 0 bytes",
                "top: data has 0 bytes (10 times, first at 0.000, last at 9.000)",
                "top: data has 0 bytes (100 times, first at 0.000, last at 99.000)",
                "left: data has 3 bytes",
            ]
        );
        assert!(complaints.news().is_empty());
        let list: Vec<String> = complaints.list().iter().map(Complaint::to_string).collect();
        assert_eq!(
            list,
            [
                "top: data has 0 bytes (150 times, first at 0.000, last at 149.000)",
                "left: data has 3 bytes (once, at 0.000)"
            ]
        );
    }

    #[test]
    fn there_is_an_end_to_kinds() {
        let complaints = Complaints::default();
        for letter in 0..1000_u32 {
            complaints.add("top", &char::from_u32(0x4e00 + letter).unwrap(), 0);
        }
        assert_eq!(complaints.list().len(), MOST_KINDS);
        assert_eq!(complaints.list().iter().map(|complaint| complaint.count).sum::<u64>(), 1000);
    }
}
