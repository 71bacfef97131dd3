//! Prompts against what openpi and SentencePiece make of them (tests/data/observe/generate.py).

use std::fs;
use std::path::{Path, PathBuf};

use pi0_node::observe::PromptTokenizer;
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/observe")
        .join(name)
}

fn recorded() -> Value {
    serde_json::from_slice(&fs::read(data("tokens.json")).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_str().unwrap())
        .collect()
}

fn ids(value: &Value) -> Vec<i32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_i64().unwrap() as i32)
        .collect()
}

/// Compares every prompt's tokens, and says all that differ.
fn compare(tokenizer: &str, prompts: &[&str], expected: &Value) {
    let tokenizer = PromptTokenizer::load(&data(tokenizer)).unwrap();
    let expected: Vec<Vec<i32>> = expected.as_array().unwrap().iter().map(ids).collect();
    assert_eq!(prompts.len(), expected.len());
    let mut wrong = Vec::new();
    for (prompt, expected) in prompts.iter().zip(&expected) {
        let found = tokenizer.encode(prompt, 128).unwrap();
        let length = expected.len();
        assert!(
            found
                .mask
                .iter()
                .enumerate()
                .all(|(i, &real)| real == (i < length)),
            "{prompt:?}"
        );
        assert!(found.ids[length..].iter().all(|&id| id == 0), "{prompt:?}");
        if found.ids[..length] != expected[..] {
            wrong.push(format!(
                "{prompt:?}: {:?}, expected {expected:?}",
                &found.ids[..length]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        prompts.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_sentencepiece_model_like_paligemmas_gives_openpis_tokens() {
    let recorded = recorded();
    let name = "paligemma_like.model";
    compare(name, &strings(&recorded["prompts"]), &recorded["ids"][name]);
}

#[test]
fn a_unigram_model_is_refused() {
    let error = PromptTokenizer::load(&data("unigram.model"))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("unigram.model: it is not a BPE model"), "{error}");
}

#[test]
fn a_model_that_trims_spaces_gives_openpis_tokens() {
    let recorded = recorded();
    let name = "trims_spaces.model";
    compare(name, &strings(&recorded["prompts"]), &recorded["ids"][name]);
}

#[test]
fn a_tokenizer_json_gives_lerobots_tokens() {
    let recorded = recorded();
    let json = &recorded["ids"]["paligemma_like.json"];
    compare("paligemma_like.json", &strings(&json["prompts"]), &json["ids"]);
}

#[test]
fn a_model_that_puts_a_space_in_front_is_refused() {
    let error = PromptTokenizer::load(&data("prefixes.model"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("prefixes.model") && error.contains("space in front"),
        "{error}"
    );
}

#[test]
fn a_truncated_model_is_an_error_wherever_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.model");
    let model = fs::read(data("paligemma_like.model")).unwrap();
    for length in (0..model.len() - 1).step_by(61) {
        fs::write(&path, &model[..length]).unwrap();
        let error = PromptTokenizer::load(&path).err().unwrap().to_string();
        assert!(error.contains("cut.model"), "{error}");
    }
}

#[test]
fn tokenizers_are_found_in_the_checkpoint_under_their_usual_names() {
    for (name, from) in [
        ("tokenizer.json", "paligemma_like.json"),
        ("tokenizer.model", "paligemma_like.model"),
        ("paligemma_tokenizer.model", "paligemma_like.model"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(data(from), folder.path().join(name)).unwrap();
        PromptTokenizer::find(folder.path(), None).unwrap();
    }
    // The one named explicitly wins, and is the one that is complained about.
    let error = PromptTokenizer::find(&data("."), Some(Path::new("/nowhere/tokenizer.json")))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("/nowhere/tokenizer.json"), "{error}");
}
