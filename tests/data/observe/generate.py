#!/usr/bin/env python3
"""Records what the reference implementations make of small inputs, for tests/observe.rs.

Runs unmodified code of lerobot 0.6.1 (resize-with-pad, normaliser) and of openpi (transforms, prompt tokenizer; a
checkout of 15a9616a), on inputs made here. What openpi imports only for training (jax, flax, ..) is replaced by empty
stand-ins.

    pip install torch==2.9.1 lerobot==0.6.1 transformers==5.5.4 sentencepiece pillow numpy safetensors
    python tests/data/observe/generate.py --openpi CHECKOUT
"""
import argparse
import dataclasses
import io
import json
import os
import pathlib
import sys
import unittest.mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import numpy as np
import sentencepiece
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.common.vla_utils import resize_with_pad_torch
from lerobot.processor import PolicyProcessorPipeline
from lerobot.processor.normalize_processor import NormalizerProcessorStep, UnnormalizerProcessorStep
from PIL import Image
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
JOINTS = 14
HORIZON = 5


def import_openpi(checkout):
    """openpi's transforms and tokenizer modules, without what they need for training."""
    for folder in ["src", "packages/openpi-client/src"]:
        sys.path.insert(0, str(checkout / folder))
    for name in ["jax", "jax.numpy", "flax", "flax.traverse_util", "orbax", "orbax.checkpoint", "numpydantic",
                 "pydantic", "pydantic.dataclasses"]:
        sys.modules[name] = unittest.mock.MagicMock(__path__=[])
    sys.modules["pydantic"].dataclasses.dataclass = dataclasses.dataclass
    import openpi.models
    import openpi.shared
    for package, name in [(openpi.shared, "array_typing"), (openpi.shared, "download"), (openpi.models, "utils")]:
        stand_in = unittest.mock.MagicMock(__path__=[])
        sys.modules[f"{package.__name__}.{name}"] = stand_in
        setattr(package, name, stand_in)
    sys.modules["openpi.models.utils.fsq_tokenizer"] = openpi.models.utils.fsq_tokenizer
    import openpi.models.tokenizer as tokenizer
    import openpi.shared.normalize as normalize
    import openpi.transforms as transforms
    return tokenizer, normalize, transforms


def resize_cases(rng):
    """Images of several shapes with their resized forms: u8 in, f32 [3, H, W] in [-1, 1] out."""
    tensors = {}
    shapes = [(24, 32, 28, 28), (37, 23, 28, 28), (28, 28, 28, 28), (9, 50, 42, 42), (61, 80, 14, 14), (7, 5, 56, 56)]
    for index, (height, width, to_height, to_width) in enumerate(shapes):
        source = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image = torch.from_numpy(source).float()[None] / 255.0
        resized = resize_with_pad_torch(image, to_height, to_width)
        tensors[f"resize.{index}.source"] = torch.from_numpy(source)
        tensors[f"resize.{index}.target"] = (resized[0] * 2.0 - 1.0).permute(2, 0, 1).contiguous()
    return tensors


def compressed_cases(rng):
    """A smooth image as PNG and JPEG, and as Pillow decodes them."""
    y, x = np.mgrid[0:30, 0:40]
    image = np.stack([x * 6, y * 8, (x + y) * 3], axis=-1).astype(np.uint8)
    tensors = {}
    for name, options in [("png", {}), ("jpeg", {"quality": 90})]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, name, **options)
        (HERE / f"image.{name}").write_bytes(buffer.getvalue())
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        tensors[f"{name}.decoded"] = torch.from_numpy(decoded.copy())
    return tensors


def statistics(rng):
    """Plausible statistics of states and actions; one joint never moves."""
    def feature(spread):
        mean, std = rng.normal(0, 1, JOINTS), rng.uniform(0.05, spread, JOINTS)
        std[3] = 0.0
        low, high = mean - 2.5 * std, mean + 2.2 * std
        return {"mean": mean, "std": std, "q01": low, "q99": high, "min": low - std, "max": high + std}
    return {"state": feature(0.6), "actions": feature(0.9)}


def openpi_cases(normalize, transforms, stats, raw):
    folder = HERE / "openpi/assets/robot"
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["mean", "std", "q01", "q99"]
    as_lists = {name: {c: feature[c].tolist() for c in columns} for name, feature in stats.items()}
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": as_lists}))
    norm_stats = {name: normalize.NormStats(**{c: feature[c] for c in columns}) for name, feature in stats.items()}
    # Given as plain names, because the stand-in for flax cannot flatten trees.
    forward, backward = transforms.Normalize(norm_stats), transforms.Unnormalize(norm_stats)
    delta = transforms.make_bool_mask(6, -1, 6, -1)
    absolute = transforms.AbsoluteActions(delta)({"state": raw["state"], "actions": raw["actions"].copy()})
    return {
        "openpi.state.normalized": forward._normalize(raw["state"], norm_stats["state"]),
        "openpi.actions.unnormalized": backward._unnormalize(raw["normalized_actions"], norm_stats["actions"]),
        "openpi.actions.absolute": absolute["actions"],
    }


def lerobot_cases(stats, raw):
    features = {
        "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(JOINTS,)),
        "action": PolicyFeature(type=FeatureType.ACTION, shape=(JOINTS,)),
    }
    tensors = {
        key: {column: torch.tensor(values, dtype=torch.float32) for column, values in stats[name].items()}
        for key, name in [("observation.state", "state"), ("action", "actions")]
    }
    cases = {}
    for label, mode in [("mean_std", NormalizationMode.MEAN_STD), ("quantiles", NormalizationMode.QUANTILES)]:
        norm_map = {FeatureType.STATE: mode, FeatureType.ACTION: mode, FeatureType.VISUAL: NormalizationMode.IDENTITY}
        arguments = {"features": features, "norm_map": norm_map, "stats": tensors}
        forward, backward = NormalizerProcessorStep(**arguments), UnnormalizerProcessorStep(**arguments)
        folder = HERE / "lerobot" / label
        for step, name in [(forward, "policy_preprocessor"), (backward, "policy_postprocessor")]:
            PolicyProcessorPipeline(steps=[step], name=name).save_pretrained(folder)
        state = torch.tensor(raw["state"], dtype=torch.float32)
        actions = torch.tensor(raw["normalized_actions"], dtype=torch.float32)
        cases[f"lerobot.{label}.state.normalized"] = forward._apply_transform(
            state, "observation.state", FeatureType.STATE)
        cases[f"lerobot.{label}.actions.unnormalized"] = backward._apply_transform(
            actions, "action", FeatureType.ACTION, inverse=True)
    return cases


PROMPTS = [
    "Transfer cube", "  pick_up the red block\n", "fold the towel", "Würfel übergeben 立方体", "put 3 cups on 2 plates!",
    "a", "a  b   c", "insert\nthe peg_now", "<bos> is no token here",
]


def train_sentencepiece(model_type):
    """A small model with PaliGemma's settings (byte fallback, no normalisation, no space in front)."""
    words = " ".join(PROMPTS[:5]) + " the robot moves its left arm to the right and picks the cube up then places it"
    text = "\n".join(" ".join(words.split()[i:] + words.split()[:i]) for i in range(40))
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split("\n")), model_writer=buffer, model_type=model_type, vocab_size=400,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
        remove_extra_whitespaces=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", unk_piece="<unk>", user_defined_symbols=["\n", "\n\n"], hard_vocab_limit=False,
        num_threads=1)
    return buffer.getvalue()


def prompt_cases(tokenizer):
    cases = {}
    for model_type in ["bpe", "unigram"]:
        path = HERE / f"{model_type}.model"
        path.write_bytes(train_sentencepiece(model_type))
        tokenizer.download.maybe_download = lambda *_, path=path, **__: path
        reference = tokenizer.PaligemmaTokenizer(max_len=64)
        cases[model_type] = [
            {"prompt": prompt, "tokens": tokens.tolist(), "mask": mask.tolist()}
            for prompt, (tokens, mask) in ((prompt, reference.tokenize(prompt)) for prompt in PROMPTS)
        ]
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openpi", type=pathlib.Path, required=True, help="checkout of openpi")
    tokenizer, normalize, transforms = import_openpi(parser.parse_args().openpi)
    rng = np.random.default_rng(7)
    stats = statistics(rng)
    raw = {
        "state": rng.normal(0, 1, JOINTS),
        "actions": rng.normal(0, 1, (HORIZON, JOINTS)),
        "normalized_actions": rng.normal(0, 1, (HORIZON, JOINTS)),
    }
    tensors = {f"raw.{name}": values for name, values in raw.items()}
    tensors |= resize_cases(rng) | compressed_cases(rng) | lerobot_cases(stats, raw)
    tensors |= openpi_cases(normalize, transforms, stats, raw)
    tensors = {name: torch.as_tensor(np.asarray(value)).contiguous() for name, value in tensors.items()}
    save_file(tensors, HERE / "reference.safetensors")
    (HERE / "prompts.json").write_text(json.dumps(prompt_cases(tokenizer), ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
