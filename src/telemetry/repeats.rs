//! Keeps one line of code from filling the log: after a few lines from the same place, further ones are only counted, and
//! the count is told when the storm is over or goes on. A layer of the log, put there by `cli run`; whoever publishes the log
//! tells the counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines from one place within [`WINDOW`]; enough for a few cameras that each have something to say.
const SHOWN: u32 = 10;
const WINDOW: Duration = Duration::from_secs(5);

/// Counts lines by the place in the code that they come from.
#[derive(Clone, Debug, Default)]
pub struct Repeats(Arc<Mutex<HashMap<Identifier, Place>>>);

#[derive(Debug)]
struct Place {
    began: Instant,
    shown: u32,
    /// Not told yet.
    left_out: u64,
    code: &'static Metadata<'static>,
}

/// Lines that nobody has seen.
#[derive(Debug)]
pub struct LeftOut {
    pub count: u64,
    code: &'static Metadata<'static>,
}

impl std::fmt::Display for LeftOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, code } = self;
        let (file, line) = (code.file().unwrap_or("?"), code.line().unwrap_or(0));
        let (level, seconds) = (code.level(), WINDOW.as_secs());
        write!(
            f,
            "{count} more lines ({level}) from {file}:{line} were left out: {SHOWN} within {seconds} s are shown"
        )
    }
}

impl Repeats {
    /// What was left out in windows that are over; it counts as told.
    pub fn take_left_out(&self) -> Vec<LeftOut> {
        self.take_left_out_at(Instant::now())
    }

    fn take_left_out_at(&self, now: Instant) -> Vec<LeftOut> {
        let mut places = self.lock();
        let over = places.values_mut().filter(|place| place.left_out > 0 && now - place.began >= WINDOW);
        over.map(|place| LeftOut { count: std::mem::take(&mut place.left_out), code: place.code }).collect()
    }

    /// Whether a line from this place may be shown now.
    fn admits(&self, code: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.lock();
        let new = Place { began: now, shown: 0, left_out: 0, code };
        let place = places.entry(code.callsite()).or_insert(new);
        if now - place.began >= WINDOW {
            (place.began, place.shown) = (now, 0);
        }
        let admitted = place.shown < SHOWN;
        if admitted {
            place.shown += 1;
        } else {
            place.left_out += 1;
        }
        admitted
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;

    use super::*;

    #[test]
    fn a_storm_from_one_place_is_cut_and_counted() {
        let place = tracing::callsite! { name: "storm", kind: tracing::metadata::Kind::EVENT, fields: };
        let repeats = Repeats::default();
        let start = Instant::now();
        let shown = (0..25).filter(|_| repeats.admits(place.metadata(), start)).count();
        assert_eq!(shown, 10);
        assert!(repeats.take_left_out_at(start).is_empty());
        let later = start + WINDOW;
        assert!(repeats.admits(place.metadata(), later));
        let told = repeats.take_left_out_at(later + WINDOW);
        assert_eq!(told.len(), 1);
        assert!(told[0].to_string().starts_with("15 more lines"), "{}", told[0]);
        assert!(repeats.take_left_out_at(later + WINDOW).is_empty());
    }
}
