#!/usr/bin/env python3
"""Times the PyTorch peer, lerobot's pi0 or pi0.5 with random weights, stage by stage, as `pi0_node bench` times this one.

Run by hand; README.md beside this file says how, and what each precision means. Nothing is downloaded.
"""
import argparse
import json
import math
import pathlib
import resource
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The goldens' generator builds lerobot's model at any size.
sys.path.insert(0, str(ROOT / "tests/golden"))
import generate
import torch

COMMON = dict(patch=14, image=224, kv_heads=1, action_dim=32, horizon=50, tok_len=48)
PRESETS = {
    "mini": COMMON | dict(v_width=192, v_depth=4, v_heads=3, v_mlp=768, width=256, depth=4, mlp=1024, heads=4,
                          head_dim=64, e_width=128, e_mlp=512, vocab=2048),
    "pi0": COMMON | dict(v_width=1152, v_depth=27, v_heads=16, v_mlp=4304, width=2048, depth=18, mlp=16384, heads=8,
                         head_dim=256, e_width=1024, e_mlp=4096, vocab=257152),
}
PI05 = dict(pi05=True, tok_len=200)
PRESETS |= {"pi05-mini": PRESETS["mini"] | PI05, "pi05": PRESETS["pi0"] | PI05}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
STAGES = ["siglip", "prefix", "step", "act", "total"]
MATMULS = [(816, 2048, 16384), (816, 16384, 2048)]
SETTINGS = ["preset", "cameras", "dtype", "threads", "steps", "prompt_tokens"]


def build(sizes, bf16):
    """The model with cheap random weights; memory is touched once, by the values that stay."""
    dtype = {"dtype": "bfloat16"} if bf16 else {}
    with torch.device("meta"):
        model = generate.build(sizes | dtype)
    if bf16:
        put_siglip_in_bf16(model)
    model.to_empty(device="cpu")
    restore_constants(model)
    both = model.paligemma_with_expert
    both.paligemma.model.language_model.embed_tokens.weight = both.paligemma.lm_head.weight
    fill(model)
    return model


def put_siglip_in_bf16(model):
    """As openpi has it; lerobot alone keeps SigLIP in f32. Patches and positions stay f32 in both."""
    paligemma = model.paligemma_with_expert.paligemma.model
    vision = getattr(paligemma.vision_tower, "vision_model", paligemma.vision_tower)
    for part in (vision.encoder, vision.post_layernorm, paligemma.multi_modal_projector):
        part.to(torch.bfloat16)

    def convert(_module, inputs, named):
        return inputs, named | {"inputs_embeds": named["inputs_embeds"].to(torch.bfloat16)}
    vision.encoder.register_forward_pre_hook(convert, with_kwargs=True)


def restore_constants(model):
    """What constructors compute and checkpoints do not hold."""
    generate.keep_rope_exact(model)
    for module in model.modules():
        if hasattr(module, "scalar_embed_scale"):
            module.embed_scale = torch.tensor(module.scalar_embed_scale)
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]


def fill(model):
    """Repeats one block of normal numbers, scaled so that activations stay near one."""
    block = torch.randn(999_983, generator=torch.Generator().manual_seed(1))
    for name, parameter in model.named_parameters():
        if name == generate.UNUSED:
            continue
        one_dimensional = parameter.ndim == 1
        scale = 0.1 if one_dimensional else 1 / math.sqrt(parameter[0].numel())
        centre = 1.0 if one_dimensional and "norm" in name and "vision_tower" in name else 0.0
        values = (block * scale + centre).to(parameter.dtype)
        for piece in parameter.data.view(-1).split(len(values)):
            piece.copy_(values[:len(piece)])


def draw_inputs(sizes, cameras, prompt_tokens):
    inputs = generate.draw_inputs(sizes, cameras, [], prompt_tokens, torch.Generator().manual_seed(2))
    images = [inputs[f"image_{camera}"] for camera in range(cameras)]
    masks = [inputs["image_masks"][:, camera] for camera in range(cameras)]
    # pi0.5 has the state in its tokens.
    state = [] if sizes.get("pi05") else [inputs["state"]]
    return (images, masks, inputs["tokens"].long(), inputs["token_mask"], *state), inputs["noise"]


class Stopwatch:
    """Start and end of every call of a method."""

    def __init__(self, owner, name):
        self.calls = []
        original = getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = original(*args, **kwargs)
            self.calls.append((start, time.perf_counter()))
            return result
        setattr(owner, name, timed)

    def durations(self):
        return [end - start for start, end in self.calls]


def time_stages(model, inputs, noise, runs):
    """Milliseconds of each stage, one entry per run; a run before them warms up."""
    images = Stopwatch(model.paligemma_with_expert, "embed_image")
    steps = Stopwatch(model, "denoise_step")
    found = {stage: [] for stage in STAGES}
    for run in range(runs + 1):
        images.calls.clear()
        steps.calls.clear()
        start = time.perf_counter()
        actions = model.sample_actions(*inputs, noise=noise.clone())
        end = time.perf_counter()
        assert actions.isfinite().all()
        siglip, act = sum(images.durations()), steps.calls[0][0]
        seconds = [siglip, act - start - siglip, statistics.mean(steps.durations()), end - act, end - start]
        if run > 0:
            for stage, value in zip(STAGES, seconds, strict=True):
                found[stage].append(value * 1e3)
    return found


def time_matmul(m, k, n, dtype, repeats=7):
    """The best GFLOP/s of a linear layer's product."""
    rows, weights = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        torch.nn.functional.linear(rows, weights)
        best = min(best, time.perf_counter() - start)
    return 2 * m * k * n / best / 1e9


def measure(arguments):
    dtype = DTYPES[arguments.dtype]
    sizes = PRESETS[arguments.preset] | dict(steps=arguments.steps)
    model = build(sizes, arguments.dtype == "bf16")
    inputs, noise = draw_inputs(sizes, arguments.cameras, arguments.prompt_tokens)
    times = time_stages(model, inputs, noise, arguments.runs)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del model
    return {setting: getattr(arguments, setting) for setting in SETTINGS} | {
        "runs": arguments.runs,
        "stages": [{"name": name, "median_ms": statistics.median(values), "best_ms": min(values)}
                   for name, values in times.items()],
        "matmul": [{"m": m, "k": k, "n": n, "gflops": time_matmul(m, k, n, dtype)} for m, k, n in MATMULS],
        "peak_rss_bytes": peak,
    }


def lines(report):
    """What is compared, by name."""
    found = {}
    for stage in report["stages"]:
        for kind in ("median_ms", "best_ms"):
            found[f"{stage['name']} {kind}"] = stage[kind]
    for product in report["matmul"]:
        found["matmul {m}x{k}x{n} gflops".format(**product)] = product["gflops"]
    return found | {"peak rss MB": report["peak_rss_bytes"] / 1e6}


def show(peer, ours):
    print(", ".join(f"{setting} {peer[setting]}" for setting in [*SETTINGS, "runs"]))
    print(f"{'':32}{'peer':>12}" + (f"{'pi0_node':>12}{'peer/ours':>12}" if ours else ""))
    our_lines = lines(ours) if ours else {}
    for name, value in lines(peer).items():
        our = our_lines.get(name)
        print(f"{name:32}{value:12.2f}" + (f"{our:12.2f}{value / our:12.2f}" if our else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="mini")
    parser.add_argument("--cameras", type=int, default=3)
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(),
                        help="default: what torch chooses, %(default)s here")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--prompt-tokens", type=int, help="real tokens of the prompt; default: all there are")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="also write the report here, as `pi0_node bench` does")
    parser.add_argument("--against", type=pathlib.Path, help="a report of `pi0_node bench` to compare with")
    arguments = parser.parse_args()
    arguments.prompt_tokens = arguments.prompt_tokens or PRESETS[arguments.preset]["tok_len"]
    ours = json.loads(arguments.against.read_text()) if arguments.against else None
    for setting in SETTINGS if ours else []:
        if ours[setting] != getattr(arguments, setting):
            parser.error(f"{arguments.against} has {setting} {ours[setting]}, not {getattr(arguments, setting)}")
    torch.set_num_threads(arguments.threads)
    peer = measure(arguments)
    show(peer, ours)
    if arguments.json:
        arguments.json.write_text(json.dumps(peer, indent=2) + "\n")


if __name__ == "__main__":
    main()
