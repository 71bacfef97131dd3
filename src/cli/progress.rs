//! A progress bar for compilations. Used by every command that compiles.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Mutex;

use crate::device::Progress;

/// Draws on the terminal's standard error; draws nothing where that is not a terminal.
#[derive(Default)]
pub struct Bar(Mutex<Option<ProgressBar>>);

impl Bar {
    fn with(&self, act: impl FnOnce(&mut Option<ProgressBar>)) {
        if let Ok(mut bar) = self.0.lock() {
            act(&mut bar);
        }
    }
}

impl Progress for Bar {
    fn begin(&self, task: &str, total: u64) {
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        let new = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
        new.set_message(task.to_owned());
        self.with(|bar| *bar = Some(new));
    }

    fn advance(&self, bytes: u64) {
        self.with(|bar| bar.iter().for_each(|bar| bar.inc(bytes)));
    }

    fn end(&self) {
        self.with(|bar| bar.take().iter().for_each(ProgressBar::finish_and_clear));
    }
}
