//! What a card or its library refused, in words that say which operation of which node, and what to do. Made by `device`
//! and `loaded`.

use super::card::Card;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TenstorrentError {
    #[error("there is no card '{0}'; known are p150, n150 and n300: tenstorrent:p150")]
    UnknownCard(String),
    #[error("weights cannot be '{0}' on a card; there are bfloat8_b, mixed and bfloat16")]
    WeightType(String),
    #[error(
        "cannot open a Tenstorrent card: {0}. `device: tenstorrent` needs a Python 3.10 or 3.12 with ttnn {version}, \
         Tenstorrent's driver and its compiler SFPI; docs/tenstorrent.md says how to install them",
        version = tt_metal_sys::TTNN_VERSION
    )]
    Open(String),
    #[error(
        "this is a mock card (TT_METAL_MOCK_CLUSTER_DESC_PATH is set), which computes nothing: no robot may follow it, and \
         there is nothing to verify. `audit` and `bench` take it with --mock"
    )]
    Mock,
    #[error(
        "--mock needs the environment of a mock card, which `cargo xtask tenstorrent` prints: \
         env $(cargo xtask tenstorrent --card p150) pi0_node audit .."
    )]
    NoMock,
    #[error("the kernel compiler SFPI does not work: {0}. Install the release that ttnn {version} asks for in \
         /opt/tenstorrent/sfpi; docs/tenstorrent.md says how", version = tt_metal_sys::TTNN_VERSION)]
    Compiler(String),
    #[error("asked for {asked}, which is {expected}, but the card is {found}")]
    OtherCard { asked: &'static str, expected: &'static str, found: String },
    #[error("{operation} of node '{node}': {memory} of the {card} is full: {message}. {advice}")]
    Memory {
        operation: String,
        node: String,
        memory: &'static str,
        card: &'static str,
        message: String,
        advice: &'static str,
    },
    #[error("{operation} of node '{node}': {message}")]
    Call { operation: String, node: String, message: String },
    #[error(
        "the trace of program '{program}' does not fit: {message}. Raise the parameter tenstorrent_trace_region_mb"
    )]
    TraceRegion { program: String, message: String },
    #[error(
        "capturing program '{program}' compiled {new} programs that its warm-up had not: replays would differ"
    )]
    ColdCapture { program: String, new: u64 },
    #[error("{what}: {message}")]
    Runtime { what: String, message: String },
}

impl TenstorrentError {
    /// Why a session could not be opened.
    pub(super) fn open(error: &tt_metal_sys::Error) -> Self {
        Self::Open(short(error))
    }

    /// What `what` says went wrong.
    pub(super) fn runtime(what: &str, error: &tt_metal_sys::Error) -> Self {
        Self::Runtime { what: what.into(), message: short(error) }
    }

    /// A call of the library that failed.
    pub(super) fn call(card: &Card, operation: &str, node: &str, error: &tt_metal_sys::Error) -> Self {
        let message = short(error);
        let full = |memory, advice| Self::Memory {
            operation: operation.into(),
            node: node.into(),
            memory,
            card: card.name,
            message: message.clone(),
            advice,
        };
        let has = |what: &str| message.contains(what);
        if has("beyond max L1 size") || has("clash with L1 buffers") || has("L1 buffer") && has("Memory") {
            return full("L1", "Give activations less of it: tenstorrent_l1_activation_kb");
        }
        if has("Out of Memory") {
            return full("DRAM", "Use fewer cameras or step counts, or a card with more memory");
        }
        if has("sfpi") || has("riscv-tt-elf") || has("build failed") || has("Failed to generate binaries") {
            return Self::Compiler(message);
        }
        Self::Call { operation: operation.into(), node: node.into(), message }
    }

    /// A trace that could not be captured.
    pub(super) fn trace(program: &str, error: &tt_metal_sys::Error) -> Self {
        let message = short(error);
        match message.contains("trace region") {
            true => Self::TraceRegion { program: program.into(), message },
            false => Self::Runtime { what: format!("capturing program '{program}'"), message },
        }
    }
}

/// tt-metal's own words without the C++ around them: `TT_FATAL @ file: condition info: MESSAGE backtrace: ..`.
fn short(error: &tt_metal_sys::Error) -> String {
    let text = error.to_string();
    let from = text.find("info:").map_or(0, |at| at + "info:".len());
    let end = text[from..].find("backtrace:").map_or(text.len(), |at| from + at);
    text[from..end].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(message: &str) -> tt_metal_sys::Error {
        let text = format!("TT_FATAL @ a/b.cpp:12: x == y\ninfo:\n{message}\nbacktrace:\n --- main");
        tt_metal_sys::Error::Runtime(text)
    }

    #[test]
    fn full_memories_are_told_apart() {
        let error = |message: &str| {
            TenstorrentError::call(&Card::N150, "ttnn.linear", "vlm.layers.3.mlp.gated", &raised(message))
        };
        let dram = error("Out of Memory: Not enough space to allocate 9 B DRAM buffer across 12 banks");
        let TenstorrentError::Memory { memory: "DRAM", .. } = &dram else { panic!("{dram}") };
        assert!(
            dram.to_string().starts_with("ttnn.linear of node 'vlm.layers.3.mlp.gated': DRAM of the n150")
        );
        let l1 = error("Out of Memory: Not enough space to allocate 9 B L1 buffer across 64 banks");
        assert!(matches!(l1, TenstorrentError::Memory { memory: "L1", .. }), "{l1}");
        let clash =
            error("Statically allocated circular buffers in program 3 clash with L1 buffers on core range");
        assert!(matches!(clash, TenstorrentError::Memory { memory: "L1", .. }), "{clash}");
        let other = error("Inputs to matmul must be tilized");
        assert_eq!(
            other.to_string(),
            "ttnn.linear of node 'vlm.layers.3.mlp.gated': Inputs to matmul must be tilized"
        );
    }
}
