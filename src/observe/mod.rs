//! From what a robot says to what the model reads, and back: image decoding and resize-with-pad, joint order,
//! normalisation, delta actions, prompt and tokenizer. Called by `control`'s inputs and outputs, on edge threads
//! for images and prompts, on the control thread for states and actions (those functions never allocate).

pub mod messages;
