//! The settings in force, for those who show them: they may change while the node runs. Written by who serves parameters,
//! read by `/diagnostics`, the status and the dashboard; the control thread has its own way (`control::Tuner`).

use std::sync::{Arc, Mutex, PoisonError};

use super::Settings;

/// Always the newest settings.
#[derive(Clone, Debug)]
pub struct CurrentSettings(Arc<Mutex<Arc<Settings>>>);

impl CurrentSettings {
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(settings))))
    }

    pub fn get(&self) -> Arc<Settings> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set(&self, settings: Settings) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

impl From<Settings> for CurrentSettings {
    fn from(settings: Settings) -> Self {
        Self::new(settings)
    }
}
