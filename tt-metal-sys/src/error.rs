//! What can go wrong, from finding an interpreter to an operation that the card refuses.
//!
//! Returned by everything in this crate. Messages say what, where and what to do.

use std::path::PathBuf;

use crate::TTNN_VERSION;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(
        "no Python interpreter: {path}: {reason}; set PI0_TTNN_PYTHON to that of the environment with ttnn",
        path = path.display()
    )]
    NoInterpreter { path: PathBuf, reason: String },

    #[error("{path} is Python {major}.{minor}; the ttnn wheel is for 3.10 and 3.12", path = path.display())]
    PythonVersion { path: PathBuf, major: u32, minor: u32 },

    #[error(
        "{path} is linked to its libpython statically; install a Python that was built with --enable-shared",
        path = path.display()
    )]
    StaticPython { path: PathBuf },

    #[error("{path} finds no package ttnn; install ttnn=={TTNN_VERSION} for it", path = path.display())]
    NoTtnn { path: PathBuf },

    #[error("{path} finds ttnn {found}, expected {TTNN_VERSION}", path = path.display())]
    TtnnVersion { path: PathBuf, found: String },

    #[error("cannot load libpython of {path}: {reason}", path = path.display())]
    LoadPython { path: PathBuf, reason: String },

    #[error("cannot import ttnn with {path}: {message}", path = path.display())]
    Import { path: PathBuf, message: String },

    #[error(
        "Python runs in this process already, as {running}; {asked} can be used in a new process only",
        running = running.display(), asked = asked.display()
    )]
    OtherInterpreter { running: PathBuf, asked: PathBuf },

    #[error("a session with a Tenstorrent device is open in this process already")]
    AlreadyOpen,

    #[error("cannot start the thread for Tenstorrent's runtime: {0}")]
    Thread(String),

    /// What was asked for does not fit what it was asked of; nothing was sent to the device.
    #[error("{0}")]
    Argument(String),

    /// What `ttnn` raised, word for word: of a `TT_FATAL` the place, the condition, the message and the backtrace.
    #[error("{0}")]
    Runtime(String),

    /// Something was returned that ttnn's documentation does not foresee.
    #[error("unexpected answer of ttnn: {0}")]
    Answer(String),
}
