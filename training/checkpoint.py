"""Writes and reads checkpoint folders in the ordinary format. Called by train.py and reference.py."""

import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from pi0 import Sizes

# What `pi0_node checkpoint init --preset tiny` writes: PaliGemma's cannot be shipped.
TOKENIZER = pathlib.Path(__file__).parent / "tokenizer.json"
STATISTICS = "assets/aloha_cube/norm_stats.json"


def tokenize(text):
    """<bos>, the text, a newline, as the node has it (src/observe/prompt.rs)."""
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    part = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    return [tokenizer.token_to_id("<bos>"), *part(text.strip().replace("_", " ").replace("\n", " ")), *part("\n")]


def save(folder, sizes, weights, statistics):
    """Weights in bf16, as the node stores them anyway."""
    (folder / STATISTICS).parent.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(sizes.config())
    (folder / STATISTICS).write_text(json.dumps({"norm_stats": statistics}, indent=1) + "\n")
    shutil.copyfile(TOKENIZER, folder / "tokenizer.json")
    save_file({name: value.detach().to(torch.bfloat16).contiguous() for name, value in weights.items()},
              folder / "model.safetensors")


def load(folder):
    """Sizes, weights in f32 and statistics of a folder that `save` wrote."""
    config = json.loads((folder / "config.json").read_text())
    vision, vlm, expert = (config["architecture"][part] for part in ("vision", "vlm", "expert"))
    sizes = Sizes(
        vision=vision["hidden_size"], vision_layers=vision["num_hidden_layers"], vision_heads=vision["num_attention_heads"],
        vision_mlp=vision["intermediate_size"], patch=vision["patch_size"], image=config["image_resolution"][0],
        vlm=vlm["hidden_size"], layers=vlm["num_hidden_layers"], vlm_mlp=vlm["intermediate_size"],
        heads=vlm["num_attention_heads"], head_dim=vlm["head_dim"], vocabulary=vlm["vocab_size"],
        expert=expert["hidden_size"], expert_mlp=expert["intermediate_size"], horizon=config["chunk_size"],
        actions=config["max_action_dim"], states=config["max_state_dim"], steps=config["num_inference_steps"],
        prompt=config["tokenizer_max_length"], most_given=config.get("rtc_training_max_delay", 0))
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    return sizes, weights, json.loads((folder / STATISTICS).read_text())["norm_stats"]
