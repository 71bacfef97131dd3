#!/usr/bin/env python3
"""Makes the golden files: what lerobot's pi0 and pi0.5 compute, value by value, on small models with random weights.

lerobot runs as it is; only the sizes of its networks, which its constructors fix at pi0's own, are replaced while a
model is built. In two files RoPE's frequencies are also made anew, see `keep_rope_exact`. Nothing is downloaded.

    pip install torch==2.9.1 transformers==5.5.4 lerobot==0.6.1 safetensors      (Python 3.12)
    python tests/golden/generate.py                # writes the files beside this script
    python tests/golden/generate.py pi0_bf16       # writes one
    python tests/golden/generate.py --check        # recomputes the values of the files and compares

`pi05_rtc_trained` needs lerobot's main branch of August 2026 (7427f3180), which knows points that are given:

    git clone https://github.com/huggingface/lerobot && git -C lerobot checkout 7427f3180
    PYTHONPATH=lerobot/src python tests/golden/generate.py pi05_rtc_trained
"""
import argparse
import contextlib
import json
import math
import os
import pathlib
import unittest.mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
from lerobot.policies.pi0 import modeling_pi0 as pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05 import modeling_pi05 as pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from safetensors import safe_open
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
SIZES = dict(v_width=64, v_depth=2, v_heads=2, v_mlp=136, patch=14, image=56, width=64, depth=2, mlp=128, heads=4,
             kv_heads=1, head_dim=16, e_width=32, e_mlp=64, vocab=320, action_dim=32, horizon=50, tok_len=48, steps=10)
BF16 = dict(dtype="bfloat16")
PI05 = dict(pi05=True, tok_len=64)


def rtc(schedule, inference_delay, execution_horizon, max_guidance_weight=10.0, **more):
    """A chunk that continues another: how its points count, as lerobot has it."""
    return dict(horizon=20, rtc=dict(schedule=schedule, inference_delay=inference_delay, execution_horizon=execution_horizon,
                                     max_guidance_weight=max_guidance_weight) | more)


# Name: sizes and arithmetic that differ, cameras, which of them are absent, prompt tokens that are real.
CASES = {
    "pi0_3cam_pad": ({}, 3, [], 11),
    "pi0_cam_absent_mid": ({}, 3, [1], 7),
    "pi0_hd72_gqa": (dict(v_width=144, v_mlp=200, kv_heads=2, horizon=13, steps=4), 1, [], 5),
    "pi0_bf16": (BF16, 2, [], 9),
    "pi0_bf16_ropef32": (BF16 | dict(rope_f32=True), 2, [], 9),
    "pi0_bf16_all": (BF16 | dict(rope_f32=True, vision_bf16=True), 2, [], 9),
    "pi0_bf16_f32ref": ({}, 2, [], 9),
    "pi05_3cam": (PI05, 3, [2], 40),
    "pi05_bf16_all": (PI05 | BF16 | dict(rope_f32=True, vision_bf16=True), 1, [], 40),
    "pi05_bf16_f32ref": (PI05, 1, [], 40),
    "pi0_rtc_linear": (rtc("LINEAR", 3, 10), 1, [], 9),
    "pi0_rtc_exp_short": (rtc("EXP", 2, 12, 5.0), 1, [], 9),
    "pi05_rtc_linear": (PI05 | rtc("LINEAR", 4, 10), 1, [], 40),
    "pi05_rtc_trained": (PI05 | rtc("ZEROS", 4, 10, training_max_delay=8), 1, [], 40),
}
# Points and dimensions of the chunk before.
PREVIOUS = {"pi0_rtc_linear": (14, 32), "pi0_rtc_exp_short": (6, 14), "pi05_rtc_linear": (20, 32), "pi05_rtc_trained": (20, 32)}
# One model in several arithmetics: the same inputs, and weights with the same values, rounded to bf16 where this one of them
# is.
BF16_FAMILIES = {"pi0_bf16": "pi0_bf16", "pi05_bf16": "pi05_bf16_all"}
# The checkpoint's name for the table that lerobot has twice, and tensors of lerobot that pi0 never uses.
TIED = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
UNUSED = "paligemma_with_expert.gemma_expert.lm_head.weight"


def build(sizes):
    """lerobot's PI0Pytorch or PI05Pytorch with networks of these sizes."""
    module, configuration, network = pi0, PI0Config, "PI0Pytorch"
    if sizes.get("pi05"):
        module, configuration, network = pi05, PI05Config, "PI05Pytorch"

    def gemma(variant):
        vlm = variant == "gemma_2b"
        return module.GemmaConfig(
            width=sizes["width"] if vlm else sizes["e_width"], depth=sizes["depth"],
            mlp_dim=sizes["mlp"] if vlm else sizes["e_mlp"], num_heads=sizes["heads"],
            num_kv_heads=sizes["kv_heads"], head_dim=sizes["head_dim"])

    original = module.PaliGemmaForConditionalGenerationWithPiGemma

    def paligemma(config):
        config._vocab_size = config.image_token_index = config.text_config.vocab_size = sizes["vocab"]
        vision = config.vision_config
        vision.hidden_size, vision.num_hidden_layers = sizes["v_width"], sizes["v_depth"]
        vision.num_attention_heads, vision.intermediate_size = sizes["v_heads"], sizes["v_mlp"]
        vision.patch_size, vision.projection_dim = sizes["patch"], sizes["width"]
        return original(config=config)

    config = configuration(
        chunk_size=sizes["horizon"], n_action_steps=sizes["horizon"], max_action_dim=sizes["action_dim"],
        max_state_dim=sizes["action_dim"], num_inference_steps=sizes["steps"],
        dtype=sizes.get("dtype", "float32"),
        image_resolution=(sizes["image"], sizes["image"]), tokenizer_max_length=sizes["tok_len"], device="cpu")
    processor = None
    if "rtc" in sizes:
        processor = rtc_processor(config, sizes["rtc"])
    with unittest.mock.patch.multiple(
            module, get_gemma_config=gemma, PaliGemmaForConditionalGenerationWithPiGemma=paligemma):
        model = getattr(module, network)(config, rtc_processor=processor).eval().requires_grad_(False)
    if sizes.get("rope_f32"):
        keep_rope_exact(model)
    if sizes.get("vision_bf16"):
        # As openpi has it; lerobot keeps SigLIP and the projector in f32.
        model.paligemma_with_expert.paligemma.model.vision_tower.to(torch.bfloat16)
        model.paligemma_with_expert.paligemma.model.multi_modal_projector.to(torch.bfloat16)
    return model


def rtc_processor(config, sizes):
    """What leads a chunk; also said in the model's configuration."""
    settings = dict(prefix_attention_schedule=RTCAttentionSchedule[sizes["schedule"]],
                    max_guidance_weight=sizes["max_guidance_weight"], execution_horizon=sizes["execution_horizon"])
    if "training_max_delay" not in sizes:
        config.rtc_config = RTCConfig(**settings)
        return RTCProcessor(config.rtc_config)
    config.rtc_training_max_delay = sizes["training_max_delay"]
    config.rtc_config = RTCConfig(mode="trained", **settings)
    return RTCProcessor(config.rtc_config, trained_mode_supported=True)


def keep_rope_exact(model):
    """RoPE's frequencies in f32 again: lerobot's conversion to bf16 rounds them too."""
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.__init__(module.config)


def draw_weights(model, generator):
    """Weights under which activations stay near one, in the checkpoint's layout and the model's types."""
    weights = {}
    for key, stored in sorted(model.state_dict().items()):
        if key in (TIED, UNUSED) or not stored.is_floating_point():
            continue
        noise = torch.randn(stored.shape, generator=generator)
        if stored.ndim == 1 and "norm" in key and key.endswith("weight"):
            # Gemma multiplies by 1 + weight, SigLIP by the weight itself.
            weights[key] = noise * 0.1 + (1.0 if "vision_tower" in key else 0.0)
        elif stored.ndim == 1:
            weights[key] = noise * 0.1
        else:
            fan_in = stored.shape[1:].numel()
            weights[key] = noise / math.sqrt(fan_in)
        weights[key] = weights[key].to(stored.dtype)
    return weights


def load_weights(model, weights):
    state = {key: value for key, value in weights.items() if key != UNUSED}
    state[TIED] = state["paligemma_with_expert.paligemma.lm_head.weight"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [key for key in missing if key != UNUSED and not key.endswith("position_ids")]
    assert not missing and not unexpected, (missing, unexpected)


def draw_inputs(sizes, cameras, absent, real_tokens, generator, previous=None):
    side, length = sizes["image"], sizes["tok_len"]
    levels = torch.randint(0, 256, (cameras, 1, 3, side, side), generator=generator)
    images = levels / 255.0 * 2.0 - 1.0
    present = torch.ones(1, cameras, dtype=torch.bool)
    for camera in absent:
        images[camera], present[0, camera] = -1.0, False
    mask = (torch.arange(length) < real_tokens)[None]
    tokens = torch.randint(3, sizes["vocab"], (1, length), generator=generator) * mask
    tokens[0, 0] = 2
    inputs = {f"image_{camera}": images[camera] for camera in range(cameras)}
    inputs |= {"image_masks": present, "tokens": tokens.to(torch.int32), "token_mask": mask}
    inputs["state"] = torch.randn(1, sizes["action_dim"], generator=generator)
    inputs["noise"] = torch.randn(1, sizes["horizon"], sizes["action_dim"], generator=generator)
    if previous is not None:
        inputs["previous_chunk"] = torch.randn(1, *previous, generator=generator)
    return inputs


class Recorder(contextlib.ExitStack):
    """Keeps what parts of the model return while it runs."""

    def __init__(self, model):
        super().__init__()
        self.model, self.values, self.step = model, {}, 0

    def keep(self, name, value):
        self.values[name] = value.detach().clone().contiguous()

    def keep_next(self, prefix, value):
        """Numbers the calls: one per camera."""
        self.keep(f"{prefix}_{sum(name.startswith(prefix + '_') for name in self.values)}", value)

    def on_module(self, module, keep):
        handle = module.register_forward_hook(lambda _module, _inputs, output: keep(output) and None)
        self.callback(handle.remove)

    def on_method(self, owner, name, keep):
        original = getattr(owner, name)

        def recorded(*args, **kwargs):
            result = original(*args, **kwargs)
            keep(result, *args, **kwargs)
            return result
        setattr(owner, name, recorded)
        self.callback(delattr, owner, name)

    def attach(self):
        both = self.model.paligemma_with_expert
        tower = both.paligemma.model.vision_tower
        vision = getattr(tower, "vision_model", tower)
        first = lambda output: output[0] if isinstance(output, tuple) else output
        self.on_module(vision.embeddings.patch_embedding,
                       lambda output: self.keep_next("patch", output.flatten(2).transpose(1, 2)))
        self.on_module(vision.embeddings, lambda output: self.keep_next("vis_embed", output))
        for index, layer in enumerate(vision.encoder.layers):
            name = f"vis_layer_{index}"
            # The first camera's.
            self.on_module(layer, lambda output, name=name: name in self.values or self.keep(name, first(output)))
        self.on_module(vision.post_layernorm, lambda output: self.keep_next("vis_out", output))
        self.on_module(both.paligemma.model.multi_modal_projector, lambda output: self.keep_next("proj", output))
        self.on_module(both.gemma_expert.model.norm,
                       lambda output: self.keep(f"expert_out_{self.step}", first(output)))
        self.on_method(both, "embed_language_tokens", lambda result, *_: self.keep("lang_embs", result))
        self.on_method(self.model, "embed_prefix", self.prefix)
        self.on_method(self.model, "embed_suffix", self.suffix)
        self.on_method(both, "forward", self.forward)
        self.on_method(self.model, "denoise_step", self.denoising_step)

    def prefix(self, result, *_):
        embeddings, mask, _ = result
        self.keep("prefix_embs", embeddings)
        self.keep("prefix_pad_mask", mask)
        self.keep("prefix_position_ids", (torch.cumsum(mask, dim=1) - 1).to(torch.int32))

    def suffix(self, result, *_):
        embeddings, _, _, condition = result
        self.keep(f"suffix_embs_{self.step}", embeddings)
        if condition is not None and condition.ndim == 2:
            self.keep(f"adarms_cond_{self.step}", condition)

    def forward(self, result, **kwargs):
        outputs, cache = result
        if kwargs["inputs_embeds"][1] is None:
            self.keep("prefix_out", outputs[0])
            for index, layer in enumerate(cache.layers):
                self.keep(f"cache_k_{index}", layer.keys)
                self.keep(f"cache_v_{index}", layer.values)

    def denoising_step(self, velocity, **kwargs):
        self.keep(f"x_t_{self.step}", kwargs["x_t"])
        # Where points are given there is a time for each: theirs is 0.
        if kwargs["timestep"].ndim == 1:
            self.keep(f"time_{self.step}", kwargs["timestep"])
        self.keep(f"v_t_{self.step}", velocity)
        self.step += 1


@torch.no_grad()
def compute(sizes, weights, inputs):
    model = build(sizes)
    load_weights(model, weights)
    cameras = inputs["image_masks"].shape[1]
    images = [inputs[f"image_{camera}"] for camera in range(cameras)]
    masks = [inputs["image_masks"][:, camera] for camera in range(cameras)]
    # pi0.5 has the state in its tokens.
    state = [] if sizes.get("pi05") else [inputs["state"]]

    def sample(**more):
        return model.sample_actions(images, masks, inputs["tokens"].long(), inputs["token_mask"], *state,
                                    noise=inputs["noise"].clone(), **more)
    continued = {}
    if "rtc" in sizes:
        continued = dict(prev_chunk_left_over=inputs["previous_chunk"], inference_delay=sizes["rtc"]["inference_delay"],
                         execution_horizon=sizes["rtc"]["execution_horizon"])
    with Recorder(model) as recorder:
        recorder.attach()
        recorder.keep("actions", sample(**continued))
    if continued:
        # As lerobot does it: what the chunk before has less than this one counts nothing.
        until = min(sizes["rtc"]["execution_horizon"], inputs["previous_chunk"].shape[1])
        weights = model.rtc_processor.get_prefix_weights(sizes["rtc"]["inference_delay"], until, sizes["horizon"])
        recorder.keep("prefix_weights", weights)
        recorder.keep("actions_without_guidance", sample())
    return recorder.values


def write(name):
    changed, cameras, absent, real_tokens = CASES[name]
    sizes = SIZES | changed
    family = next((family for family in BF16_FAMILIES if name.startswith(family)), name)
    generator = torch.Generator().manual_seed(sum(map(ord, family)))
    rounded = CASES[BF16_FAMILIES.get(family, name)][0]
    weights = draw_weights(build(SIZES | rounded), generator)
    if "dtype" not in sizes:
        weights = {key: value.float() for key, value in weights.items()}
    inputs = draw_inputs(sizes, cameras, absent, real_tokens, generator, PREVIOUS.get(name))
    outputs = compute(sizes, weights, inputs)
    parts = {"weights": weights, "in": inputs, "out": outputs}
    tensors = {f"{part}.{key}": value for part, values in parts.items() for key, value in values.items()}
    path = HERE / f"{name}.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(sizes)})
    print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def check(name):
    with safe_open(HERE / f"{name}.safetensors", "pt") as file:
        sizes = json.loads(file.metadata()["config"])
        parts = {"weights": {}, "in": {}, "out": {}}
        for key in file.keys():
            part, rest = key.split(".", 1)
            parts[part][rest] = file.get_tensor(key)
    found = compute(sizes, parts["weights"], parts["in"])
    assert found.keys() >= parts["out"].keys(), parts["out"].keys() - found.keys()
    worst = max((relative_rms(found[key], expected), key) for key, expected in parts["out"].items())
    print(f"{name}: largest difference {worst[0]:.1e} ({worst[1]})")
    # Sums in another order, on another kind of processor, turn roundings to bf16: 1.2e-2 was seen.
    assert worst[0] <= (3e-2 if sizes.get("dtype") == "bfloat16" else 1e-5)


def relative_rms(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="recompute the committed files' values and compare")
    parser.add_argument("names", nargs="*", help="which files (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.names or CASES:
        check(name) if arguments.check else write(name)


if __name__ == "__main__":
    main()
