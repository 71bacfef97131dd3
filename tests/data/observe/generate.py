"""Records what the reference code makes of observations, as test data for tests/observe_*.rs.

Nothing of the references is reimplemented here: this script calls lerobot and openpi as they are, and the
SentencePiece library. It needs Python 3.12 with exactly the packages in VERSIONS (plus what openpi imports: jax[cpu],
flax, chex, orbax-checkpoint, tqdm-loggable, jaxtyping 0.2.36), and a checkout of openpi at 15a9616a:

    python generate.py --openpi PATH_TO_CHECKOUT

Only two things are put in the references' way, both downloads: where openpi fetches PaliGemma's tokenizer it is given
the small one trained here, and where lerobot does, a converted copy of it.

Images are not stored: `pattern` below is the same formula as in tests/observe_images.rs.
"""

import argparse
import importlib.metadata
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import sentencepiece
import torch
from PIL import Image
from safetensors.numpy import save_file

VERSIONS = {
    "lerobot": "0.6.1",
    "torch": "2.9.1",
    "transformers": "5.5.4",
    "sentencepiece": "0.2.3",
    "tokenizers": "0.22.2",
    "pillow": "12.3.0",
    "numpy": "2.5.5",
}
HERE = Path(__file__).resolve().parent

# (source width, source height, target width, target height, every how many rows and columns are recorded)
SIZES = [
    (64, 48, 28, 28, 1),  # smaller
    (20, 15, 28, 28, 1),  # larger
    (28, 28, 28, 28, 1),  # as it is
    (37, 53, 28, 20, 1),  # portrait, odd padding
    (5, 40, 28, 28, 1),  # narrow
    (640, 480, 224, 224, 7),  # a real camera
    (1279, 719, 224, 224, 7),  # a large one, odd
]


def pattern(width: int, height: int) -> np.ndarray:
    """An image [height, width, 3] with both smooth and sharp parts."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    return ((x * 7 + y * 13 + c * 29 + x * y * 3) % 256).astype(np.uint8)


def lerobot_image(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """What pi0 in lerobot makes of one camera image: [3, height, width]."""
    from lerobot.policies.pi0.modeling_pi0 import PI0Policy

    policy = SimpleNamespace(
        parameters=lambda: iter([torch.zeros(1)]),
        config=SimpleNamespace(image_features={"camera": None}, image_resolution=(height, width)),
    )
    batch = {"camera": torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(torch.float32) / 255}
    images, _ = PI0Policy._preprocess_images(policy, batch)
    return images[0][0].numpy()


def openpi_image(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """What openpi's torch preprocessing makes of it."""
    from openpi.shared.image_tools import resize_with_pad_torch

    scaled = torch.from_numpy(pixels.copy()).to(torch.float32)[None] / 255.0 * 2.0 - 1.0
    if scaled.shape[1:3] != (height, width):
        scaled = resize_with_pad_torch(scaled, height, width)
    # The batch dimension of a single image is lost in resizing.
    return scaled.reshape(height, width, 3).permute(2, 0, 1).numpy()


def images() -> None:
    expected = {}
    for width, height, target_width, target_height, stride in SIZES:
        pixels = pattern(width, height)
        image = lerobot_image(pixels, target_width, target_height)
        difference = np.abs(image - openpi_image(pixels, target_width, target_height)).max()
        assert difference < 1e-6, (width, height, difference)
        name = f"{width}x{height}_to_{target_width}x{target_height}_every_{stride}"
        expected[name] = np.ascontiguousarray(image[:, ::stride, ::stride])

    # A smooth picture, as cameras see them; decoders may round chroma differently.
    y, x = np.mgrid[0:36, 0:48]
    smooth = np.stack([x * 5, y * 7, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1).astype(np.uint8)
    picture = Image.fromarray(smooth)
    picture.save(HERE / "rgb.png")
    picture.save(HERE / "rgb.jpg", quality=92)
    picture.convert("L").save(HERE / "grey.jpg", quality=92)
    with_alpha = picture.copy()
    with_alpha.putalpha(Image.fromarray((x * 5).astype(np.uint8)))
    with_alpha.save(HERE / "rgba.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=16).save(HERE / "palette.png")
    for name in ["rgb.png", "rgb.jpg", "grey.jpg", "rgba.png", "palette.png"]:
        decoded = np.asarray(Image.open(HERE / name).convert("RGB"))
        expected[name] = lerobot_image(decoded, 28, 28)
    save_file(expected, HERE / "images.safetensors")


def statistics(rng: np.random.Generator, joints: int) -> dict[str, np.ndarray]:
    low = rng.normal(size=joints) - 1
    high = low + rng.uniform(0.1, 3, size=joints)
    # A joint that never moved: the epsilons decide what becomes of it.
    high[3] = low[3]
    std = rng.uniform(0.05, 2, size=joints)
    std[3] = 0
    mean = (low + high) / 2
    return {"mean": mean, "std": std, "q01": low, "q99": high, "min": low - 0.3, "max": high + 0.2 * (std > 0)}


def normalization() -> None:
    from openpi import transforms
    from openpi.shared import normalize

    joints, model_dim, horizon = 7, 32, 3
    rng = np.random.default_rng(5)
    stats = {"state": statistics(rng, joints), "actions": statistics(rng, joints)}
    state = stats["state"]["mean"] + rng.normal(size=joints)
    state[3] = stats["state"]["mean"][3]
    actions = rng.normal(size=(horizon, model_dim)).astype(np.float32)
    cases = {}

    def record(name: str, normalised: np.ndarray, unnormalised: np.ndarray) -> None:
        cases[name] = {
            "state": np.asarray(normalised, dtype=np.float64).tolist(),
            "actions": np.asarray(unnormalised, dtype=np.float64).tolist(),
        }

    norm_stats = {
        key: normalize.NormStats(**{name: values[name] for name in ["mean", "std", "q01", "q99"]})
        for key, values in stats.items()
    }
    padded_stats = {
        key: normalize.NormStats(**{n: transforms.pad_to_dim(getattr(s, n), model_dim) for n in ["mean", "std", "q01", "q99"]})
        for key, s in norm_stats.items()
    }
    for folder, kept in [("openpi", norm_stats), ("openpi_padded", padded_stats)]:
        normalize.save(HERE / folder / "assets" / "robot", kept)
        loaded = normalize.load(HERE / folder / "assets" / "robot")
        for mode, quantiles in [("mean_std", False), ("quantiles", True)]:
            forward = transforms.Normalize(loaded, use_quantiles=quantiles)({"state": state})
            forward = transforms.PadStatesAndActions(model_dim)(forward)["state"]
            inverse = transforms.Unnormalize(loaded, use_quantiles=quantiles)({"state": forward, "actions": actions})
            record(f"{folder}_{mode}", forward, inverse["actions"][:, :joints])

    for name in ["mean_std", "quantiles", "min_max"]:
        record(f"lerobot_{name}", *lerobot_normalization(f"lerobot_{name}", name.upper(), stats, state, actions))

    # openpi's delta actions: 3 joints as differences, 1 absolute, 2 as differences, 1 absolute.
    runs = [3, -1, 2, -1]
    absolute = transforms.AbsoluteActions(transforms.make_bool_mask(*runs))(
        {"state": state, "actions": actions[:, :joints].astype(np.float64)}
    )["actions"]
    recorded = {
        "state": state.tolist(),
        "actions": actions.astype(np.float64).tolist(),
        "cases": cases,
        "delta": {"runs": runs, "absolute": absolute.tolist()},
    }
    (HERE / "numbers.json").write_text(json.dumps(recorded, indent=1) + "\n")


def aloha() -> None:
    """What openpi's ALOHA models (adapt_to_pi) see of a state, and what their actions are for the robot."""
    from openpi.policies import aloha_policy

    rng = np.random.default_rng(7)
    state = rng.uniform(-2.0, 2.0, 14)
    actions = rng.uniform(-2.0, 2.0, (20, 14))
    # Grippers from closed to open, and beyond where encoders are not exact.
    actions[:, 6], actions[:, 13] = np.linspace(-1.2, 1.1, 20), np.linspace(0.0, 1.0, 20)
    states = []
    for left, right in zip(np.linspace(-0.3, 1.3, 20), np.linspace(0.0, 1.0, 20)):
        state[[6, 13]] = left, right
        states.append(state.copy())
    adapted = [aloha_policy._decode_state(state.copy(), adapt_to_pi=True) for state in states]
    encoded = aloha_policy._encode_actions(actions.copy(), adapt_to_pi=True)
    record = {"states": states, "adapted": adapted, "actions": actions, "encoded": encoded}
    record = {name: np.asarray(values).tolist() for name, values in record.items()}
    (HERE / "aloha.json").write_text(json.dumps(record) + "\n")


def lerobot_normalization(folder: str, mode: str, stats: dict, state: np.ndarray, actions: np.ndarray):
    """Saves pi0's processors as lerobot does, and runs the loaded ones."""
    from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.common.vla_utils import pad_vector
    from lerobot.policies.pi0.configuration_pi0 import PI0Config
    from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

    joints = len(state)
    config = PI0Config(device="cpu")
    config.input_features = {"observation.state": PolicyFeature(FeatureType.STATE, (joints,))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (joints,))}
    config.normalization_mapping = {
        "VISUAL": NormalizationMode.IDENTITY,
        "STATE": NormalizationMode[mode],
        "ACTION": NormalizationMode[mode],
    }
    dataset_stats = {
        "observation.state": {name: torch.tensor(values) for name, values in stats["state"].items()},
        "action": {name: torch.tensor(values) for name, values in stats["actions"].items()},
    }
    with mock.patch("lerobot.processor.tokenizer_processor.AutoTokenizer", SimpleNamespace(from_pretrained=converted_tokenizer)):
        before, after = make_pi0_pre_post_processors(config, dataset_stats)
        shutil.rmtree(HERE / folder, ignore_errors=True)
        before.save_pretrained(HERE / folder)
        after.save_pretrained(HERE / folder)
        for entry in (HERE / folder).iterdir():
            if not entry.name.startswith("policy_") or entry.is_dir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        # The tokenizer is a download; a normaliser has no need of it.
        before = PolicyProcessorPipeline.from_pretrained(HERE / folder, "policy_preprocessor.json")
        after = PolicyProcessorPipeline.from_pretrained(
            HERE / folder,
            "policy_postprocessor.json",
            to_transition=policy_action_to_transition,
            to_output=transition_to_policy_action,
        )
        batch = before({"observation.state": torch.tensor(state, dtype=torch.float32), "task": "stack"})
    normalised = pad_vector(batch["observation.state"][0], actions.shape[-1])
    return normalised.numpy(), after(torch.from_numpy(actions[:, :joints].copy())).numpy()


# The words of robots' tasks, enough for a few hundred pieces.
SENTENCES = [
    f"{verb} the {adjective} {thing} {place}"
    for verb in ["pick up", "put down", "transfer", "stack", "unfold", "push", "open", "insert", "hand over"]
    for adjective in ["red", "blue", "small", "second", "wooden", "transparent"]
    for thing in ["cube", "towel", "bottle", "drawer", "gripper's peg", "cup of coffee"]
    for place in ["into the box", "on the table", "with the left arm", "to the other robot", "near slot 42"]
]
SPECIAL = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>")
SYMBOLS = ["\n", "\n\n", "\n\n\n", "▁▁", "▁▁▁", "▁▁▁▁", "<loc0000>", "<seg001>"]
PROMPTS = [
    "pick up the red cube",
    "  transfer_the_cube \n",
    "",
    "stack\nthe cups",
    "stack  the   wooden     cups",
    "UNFOLD the Towel!",
    "Würfel in die Schüssel, 立方体 🤖",
    "put the cube at <loc0000> near <seg001>",
    "<bos> is text <eos>",
    "<0x41> is no byte",
    "ééé e\u0301 \u00a0 \u3000x",
    "tab\there\r\nand there",
    "aaaaaaaaaaaaaaa bbbbbbb",
    "tttttthethethe thhthhhe",
    "\x1fseparator\x1f",
    "0123456789 42 4242",
]


def prompts() -> list[str]:
    """The prompts above, and nonsense from the pieces that merges are most easily confused by."""
    rng = random.Random(7)
    parts = ["th", "the", "he", "t", "e", "r", "re", "ed", " ", "  ", "cu", "be", "cub", "o", "oo", "p", "ut", "a", "_", "é", "4", "42", "\n"]
    return PROMPTS + ["".join(rng.choices(parts, k=rng.randint(3, 24))) for _ in range(100)]


def train(name: str, **options) -> Path:
    path = HERE / name
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(SENTENCES), model_writer=file, byte_fallback=True, num_threads=1, minloglevel=2,
            user_defined_symbols=SYMBOLS, **({"normalization_rule_name": "identity"} | SPECIAL | options),
        )
    return path


def converted_tokenizer(*_args, **_options):
    """The BPE model as transformers' Gemma tokenizer, which reads `tokenizer.json`."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_file=str(HERE / "paligemma_like.json"), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>"
    )


def tokens() -> None:
    from openpi.models import tokenizer as openpi_tokenizer
    from transformers import GemmaTokenizer

    gemma = dict(model_type="bpe", vocab_size=540, add_dummy_prefix=False, remove_extra_whitespaces=False)
    models = {
        "paligemma_like.model": train("paligemma_like.model", **gemma),
        "trims_spaces.model": train("trims_spaces.model", **(gemma | {"remove_extra_whitespaces": True, "vocab_size": 420})),
    }
    # Refused: PaliGemma's model is neither.
    train("unigram.model", **(gemma | {"model_type": "unigram", "vocab_size": 325}))
    train("prefixes.model", **(gemma | {"add_dummy_prefix": True, "vocab_size": 360}))
    encoded = {}
    for name, path in models.items():
        with mock.patch("openpi.shared.download.maybe_download", lambda *_args, _path=path, **_options: _path):
            reference = openpi_tokenizer.PaligemmaTokenizer(max_len=128)
        encoded[name] = []
        for prompt in prompts():
            ids, mask = reference.tokenize(prompt)
            assert mask.sum() < 128, prompt
            encoded[name].append(ids[mask].tolist())

    # The tokenizer.json that transformers makes of the same model, which is how PaliGemma's came to be.
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(models["paligemma_like.model"], Path(folder) / "tokenizer.model")
        GemmaTokenizer.from_pretrained(folder).backend_tokenizer.save(str(HERE / "paligemma_like.json"), pretty=False)
    # lerobot's pipeline encodes the text and the newline in one go, which is the same.
    fast = converted_tokenizer()
    clean = [" ".join(prompt.split()) for prompt in SENTENCES[::60]]
    encoded["paligemma_like.json"] = {
        "prompts": clean,
        "ids": [[2] + fast.encode(prompt + "\n", add_special_tokens=False) for prompt in clean],
    }
    recorded = {"prompts": prompts(), "ids": encoded}
    (HERE / "tokens.json").write_text(json.dumps(recorded) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openpi", type=Path, required=True, help="checkout of openpi at 15a9616a")
    openpi = parser.parse_args().openpi
    sys.path[:0] = [str(openpi / "src"), str(openpi / "packages/openpi-client/src")]
    for package, version in VERSIONS.items():
        found = importlib.metadata.version(package)
        if found != version:
            sys.exit(f"{package} is {found}; the data was made with {version}")
    images()
    tokens()
    normalization()
    aloha()
    total = sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file() and path.suffix != ".py")
    print(f"{total / 1000:.0f} kB in {HERE}")


if __name__ == "__main__":
    main()
