"""Records what the reference code makes of states in pi0.5's prompts, as test data for tests/observe_states.rs.

As generate.py beside it: lerobot and openpi run as they are, with the SentencePiece library; only the download of
PaliGemma's tokenizer is replaced, by a small model trained here that splits digits, as PaliGemma's does. It needs Python
3.12 with the packages of generate.py, and a checkout of openpi at 15a9616a:

    python generate_states.py --openpi PATH_TO_CHECKOUT
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch

import generate

HERE = Path(__file__).resolve().parent
NAME = "pi05_like"
TASKS = [
    "pick up the red cube",
    "  transfer_the_cube \n",
    "",
    "stack\nthe cups, State: 12 255;",
    "UNFOLD the Towel!",
    "put 2 cubes into box 42",
    "Würfel in die Schüssel, 立方体 🤖",
    "ends with a digit 7",
    "0 1 2",
    "Task: , State:",
]
# Elements at the edges of the bins, beside them, and outside.
EDGES = [-1.0, 1.0, 0.0, -0.0, 0.5, -0.5, 1 / 128, -1 / 128, 127 / 128, -127 / 128, 1.5, -1.5, 7.0, -7.0, 1e-30, -1e-30]


def train() -> Path:
    """A model like PaliGemma's: digits one by one; the words of the template are pieces."""
    words = [f"Task: {sentence}, State: {number} {number // 3};\nAction: " for number, sentence in enumerate(generate.SENTENCES)]
    gemma = dict(model_type="bpe", vocab_size=460, add_dummy_prefix=False, remove_extra_whitespaces=False, split_digits=True)
    with mock.patch.object(generate, "SENTENCES", words):
        return generate.train(f"{NAME}.model", **gemma)


def beside(values: list[float]) -> list[float]:
    """Each value in f32, and its neighbours there."""
    exact = np.array(values, dtype=np.float32)
    return [float(x) for x in np.concatenate([exact, np.nextafter(exact, np.float32(9)), np.nextafter(exact, np.float32(-9))])]


def states(rng: random.Random) -> list[list[float]]:
    """Normalised states of robots with up to 32 joints, in f32."""
    edges = beside(EDGES)
    found = [edges[start : start + 12] for start in range(0, len(edges), 12)]
    for _ in range(60):
        found.append([float(np.float32(rng.uniform(-1.1, 1.1))) for _ in range(rng.choice([1, 6, 7, 8, 14, 32]))])
    return found


def lerobot_prompts(state: list[float], task: str) -> str:
    from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep
    from lerobot.lerobot_types import TransitionKey

    step = Pi05PrepareStateTokenizerProcessorStep(max_state_dim=32)
    transition = {
        TransitionKey.OBSERVATION: {"observation.state": torch.tensor([state], dtype=torch.float32)},
        TransitionKey.COMPLEMENTARY_DATA: {"task": [task]},
    }
    return step(transition)[TransitionKey.COMPLEMENTARY_DATA]["task"][0]


def prompts() -> list[dict]:
    from openpi.models import tokenizer as openpi_tokenizer
    from transformers import GemmaTokenizer, PreTrainedTokenizerFast

    model = train()
    with mock.patch("openpi.shared.download.maybe_download", lambda *_args, **_options: model):
        openpi = openpi_tokenizer.PaligemmaTokenizer(max_len=400)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(model, Path(folder) / "tokenizer.model")
        GemmaTokenizer.from_pretrained(folder).backend_tokenizer.save(str(HERE / f"{NAME}.json"), pretty=False)
    lerobot = PreTrainedTokenizerFast(tokenizer_file=str(HERE / f"{NAME}.json"), bos_token="<bos>", eos_token="<eos>",
                                      pad_token="<pad>", unk_token="<unk>")
    found = []
    for index, state in enumerate(states(random.Random(11))):
        task = TASKS[index % len(TASKS)]
        ids, mask = openpi.tokenize(task, np.array(state))
        assert mask.sum() < 400
        ids = ids[mask].tolist()
        text = lerobot_prompts(state, task)
        assert [2] + lerobot.encode(text, add_special_tokens=False) == ids, text
        found.append({"task": task, "state": state, "text": text, "ids": ids})
    return found


def normalised() -> dict:
    """Joint positions to the numbers of the prompt, through lerobot's normaliser (in f32) and openpi's (in f64)."""
    from lerobot.processor import PolicyProcessorPipeline
    from openpi import transforms
    from openpi.shared import normalize

    rng = np.random.default_rng(13)
    loaded = normalize.load(HERE / "openpi" / "assets" / "robot")
    low, high = loaded["state"].q01, loaded["state"].q99
    positions = (low + (high - low) * rng.uniform(-0.05, 1.05, size=(400, len(low)))).round(4)
    # The joint that never moved, near where it is; it is blown up to the last bins.
    positions[:, 3] = low[3] + np.where(np.arange(400) % 2 == 0, 0, 1e-3)
    edges = np.linspace(-1, 1, 257)[:-1]
    openpi = transforms.Normalize(loaded, use_quantiles=True)
    normaliser = PolicyProcessorPipeline.from_pretrained(HERE / "lerobot_quantiles", "policy_preprocessor.json").steps[-1]
    digitize = lambda state: (np.digitize(state, bins=edges) - 1).tolist()
    lerobot = lambda row: normaliser._normalize_observation(
        {"observation.state": torch.tensor(row, dtype=torch.float32)}, inverse=False)["observation.state"].numpy()
    return {
        "positions": positions.tolist(),
        "openpi": [digitize(openpi({"state": row})["state"]) for row in positions],
        "lerobot": [digitize(lerobot(row)) for row in positions],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openpi", type=Path, required=True, help="checkout of openpi at 15a9616a")
    openpi = parser.parse_args().openpi
    sys.path[:0] = [str(openpi / "src"), str(openpi / "packages/openpi-client/src")]
    with mock.patch("lerobot.processor.tokenizer_processor.AutoTokenizer", SimpleNamespace(from_pretrained=generate.converted_tokenizer)):
        recorded = {"prompts": prompts(), "normalised": normalised()}
    (HERE / "states.json").write_text(json.dumps(recorded) + "\n")
    print(f"{len(recorded['prompts'])} prompts, {(HERE / 'states.json').stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
