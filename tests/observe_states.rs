//! States in pi0.5's prompts against what openpi, lerobot and SentencePiece make of them
//! (tests/data/observe/generate_states.py).

use std::fs;
use std::path::PathBuf;

use pi0_node::observe::state_prompt::number;
use pi0_node::observe::{Normalizer, PromptTokenizer, PromptTokens, StatePrompt, Trained};
use pi0_node::settings::Normalization;
use serde_json::Value;

const MAX_LEN: usize = 400;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/observe").join(name)
}

fn recorded() -> Value {
    serde_json::from_slice(&fs::read(data("states.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn integers(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|x| x.as_i64().unwrap() as i32).collect()
}

#[test]
fn prompts_with_states_are_openpis_and_lerobots() {
    let recorded = recorded();
    for name in ["pi05_like.model", "pi05_like.json"] {
        let tokenizer = PromptTokenizer::load(&data(name)).unwrap();
        for case in recorded["prompts"].as_array().unwrap() {
            let (task, state) = (case["task"].as_str().unwrap(), numbers(&case["state"]));
            let states = StatePrompt::new(&tokenizer, state.len()).unwrap();
            let task = states.task(&tokenizer, task, MAX_LEN).unwrap();
            let mut found = PromptTokens::room(MAX_LEN);
            states.write(&task, state.iter().map(|&x| number(x)), &mut found);
            let expected = integers(&case["ids"]);
            assert_eq!(found.ids[..found.len()], expected, "{name}: {}", case["text"]);
            assert!(states.lengths(task.len()).contains(&expected.len()));
            assert!(found.ids[expected.len()..].iter().all(|&id| id == 0));
        }
    }
}

/// To the last bit of what each of them computes in: one bin further is another token.
#[test]
fn joint_positions_become_openpis_and_lerobots_numbers() {
    let recorded = recorded();
    let recorded = &recorded["normalised"];
    let trained = Trained { state_dim: 32, action_dim: 32, quantiles: true };
    for (name, folder) in [("openpi", "openpi"), ("lerobot", "lerobot_quantiles")] {
        let normalizer = Normalizer::load(&data(folder), &Normalization::Checkpoint, 7, trained).unwrap();
        let rows = recorded["positions"].as_array().unwrap().iter().zip(recorded[name].as_array().unwrap());
        for (index, (positions, expected)) in rows.enumerate() {
            let found: Vec<i32> = normalizer.normalized(&numbers(positions)).map(number).collect();
            assert_eq!(found, integers(expected), "{name}, state {index}: {positions}");
        }
    }
}
