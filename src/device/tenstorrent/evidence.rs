//! What the library itself wrote down while it ran a program's calls: which programs each call started on the card, and
//! whether anything crossed to or from the host meanwhile. Called by `device`; its capture is a list of nodes in the order
//! in which things happened.

use serde::Deserialize;

use super::error::TenstorrentError;
use super::program::{CallEvidence, Program};

/// Functions of the library that move tensors between host and card.
const CROSSINGS: [&str; 4] =
    ["Tensor::to_device", "Tensor::cpu", "tt::tt_metal::copy_to_device", "tt::tt_metal::copy_to_host"];

#[derive(Deserialize)]
struct Node {
    node_type: String,
    params: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    name: Option<String>,
}

/// One entry per call of `program`, from a capture of them all.
pub(super) fn read(program: &Program, capture: &str) -> Result<Vec<CallEvidence>, TenstorrentError> {
    let failed = |message: String| TenstorrentError::Runtime {
        what: format!("what ttnn wrote down of '{}'", program.name),
        message,
    };
    let nodes: Vec<Node> = serde_json::from_str(capture).map_err(|error| failed(error.to_string()))?;
    let mut found: Vec<CallEvidence> = Vec::with_capacity(program.calls.len());
    let mut open: Vec<&str> = Vec::new();
    for node in &nodes {
        let name = node.params.as_ref().and_then(|found| found.name.as_deref()).unwrap_or_default();
        match node.node_type.as_str() {
            "function_start" => {
                if open.is_empty()
                    && program.calls.get(found.len()).is_some_and(|call| call.operation == name)
                {
                    found.push(CallEvidence::default());
                }
                open.push(name);
                if let Some(last) = found.last_mut()
                    && CROSSINGS.contains(&name)
                {
                    last.crossings += 1;
                }
            }
            "function_end" => drop(open.pop()),
            "program_execution" => {
                if let Some(last) = found.last_mut() {
                    last.programs.push(open.last().copied().unwrap_or_default().to_owned());
                }
            }
            _ => {}
        }
    }
    match found.len() == program.calls.len() {
        true => Ok(found),
        false => Err(failed(format!("{} calls instead of {}", found.len(), program.calls.len()))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::Call;
    use super::*;

    fn program(operations: &[&'static str]) -> Program {
        let call = |&operation| Call {
            operation,
            operands: Vec::new(),
            attributes: Vec::new(),
            results: Vec::new(),
            node: "node".into(),
            last_uses: Vec::new(),
        };
        Program { name: "test".into(), calls: operations.iter().map(call).collect(), ..Program::default() }
    }

    const CAPTURE: &str = r#"[
        {"node_type": "capture_start", "params": {}},
        {"node_type": "function_start", "params": {"name": "ttnn.add"}},
        {"node_type": "function_start", "params": {"name": "BinaryNgDeviceOperation"}},
        {"node_type": "program_execution", "params": {}},
        {"node_type": "function_end", "params": {}},
        {"node_type": "function_end", "params": {}},
        {"node_type": "function_start", "params": {"name": "ttnn.deallocate"}},
        {"node_type": "function_end", "params": {}},
        {"node_type": "function_start", "params": {"name": "ttnn.full"}},
        {"node_type": "function_start", "params": {"name": "Tensor::to_device"}},
        {"node_type": "function_end", "params": {}},
        {"node_type": "function_end", "params": {}}
    ]"#;

    #[test]
    fn programs_and_crossings_are_counted_by_call() {
        let found = read(&program(&["ttnn.add", "ttnn.full"]), CAPTURE).unwrap();
        assert_eq!(found[0], CallEvidence { programs: vec!["BinaryNgDeviceOperation".into()], crossings: 0 });
        assert_eq!(found[1], CallEvidence { programs: Vec::new(), crossings: 1 });
    }

    #[test]
    fn calls_that_were_not_written_down_are_an_error() {
        let error = read(&program(&["ttnn.add", "ttnn.full", "ttnn.add"]), CAPTURE).unwrap_err();
        assert!(error.to_string().ends_with("2 calls instead of 3"), "{error}");
    }
}
