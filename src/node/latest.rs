//! A place for the newest message between the thread that receives and the thread that decodes: a slow decoder skips
//! messages instead of falling behind. Edge threads only; they may wait, the control thread has mailboxes of its own.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Debug)]
pub struct Latest<T> {
    value: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        Self {
            value: Mutex::new(None),
            filled: Condvar::new(),
        }
    }
}

impl<T> Latest<T> {
    /// Replaces what nobody took yet.
    pub fn put(&self, value: T) {
        *self.lock() = Some(value);
        self.filled.notify_one();
    }

    /// The newest value, waiting for one up to `timeout`.
    pub fn take(&self, timeout: Duration) -> Option<T> {
        let (mut value, _) = self
            .filled
            .wait_timeout_while(self.lock(), timeout, |value| value.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        value.take()
    }

    /// A thread that panicked left the value whole: it is only ever replaced.
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_replaces_what_nobody_took() {
        let latest = Latest::default();
        latest.put(1);
        latest.put(2);
        assert_eq!(latest.take(Duration::ZERO), Some(2));
        assert_eq!(latest.take(Duration::ZERO), None);
    }

    #[test]
    fn a_waiting_thread_gets_the_value_that_comes() {
        let latest = Latest::default();
        let taken = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| latest.take(Duration::from_secs(20)));
            latest.put("image");
            waiter.join().unwrap()
        });
        assert_eq!(taken, Some("image"));
    }
}
