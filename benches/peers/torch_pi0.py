#!/usr/bin/env python3
"""The same policy in plain PyTorch, on the same weights and inputs: how long it takes, and how far apart the actions are.

    torch_pi0.py --checkpoint DIR --cameras 3 --device cuda --compile --json peer.json --against ours.json
    torch_pi0.py --checkpoint DIR --cameras 3 --inputs inputs.safetensors                    # inputs for `pi0_node infer`
    torch_pi0.py --checkpoint DIR --inputs inputs.safetensors --actions ours.safetensors     # and what came of them

Needs PyTorch 2.3 or newer and nothing else: no transformers, no lerobot, no download. bf16 as openpi has it: large products, the
residual stream and the KV cache; norms, softmax, rotations, the flow and the robot's own projections in f32. Queries, keys and values
are products of their own and attention is PyTorch's, as in lerobot. With --compile the prefix and a denoising step are compiled
(torch.compile, CUDA graphs) each by itself; a run is one prefix and all steps, images on the host to actions on the host.
"""
import argparse
import ctypes
import json
import math
import pathlib
import statistics
import struct
import time

import torch
import torch.nn.functional as F

PALIGEMMA = "paligemma_with_expert.paligemma."
VISION = PALIGEMMA + "model.vision_tower.vision_model."
PROJECTOR = PALIGEMMA + "model.multi_modal_projector.linear"
LANGUAGE = PALIGEMMA + "model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
TOKENS = PALIGEMMA + "lm_head.weight"
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "I32": torch.int32, "I64": torch.int64, "BOOL": torch.bool}
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# What openpi keeps in f32: patches and positions, and what knows the robot's units.
EXACT = ("embeddings.", "action_", "state_proj", "time_mlp", "norm", "dense")
GEMMA_2B = {"hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384, "num_attention_heads": 8, "head_dim": 256}
GEMMA_300M = {"hidden_size": 1024, "intermediate_size": 4096}
SIGLIP = {"num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}


def load(path):
    """The tensors of a safetensors file."""
    data = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
    length = struct.unpack("<Q", bytes(data[:8].tolist()))[0]
    header = json.loads(bytes(data[8 : 8 + length].tolist()))
    header.pop("__metadata__", None)
    body, tensors = data[8 + length :], {}
    for name, tensor in header.items():
        part = body[slice(*tensor["data_offsets"])]
        # Behind truth values, numbers may lie where they cannot be read in place.
        part = part.clone() if part.storage_offset() % 8 else part
        tensors[name] = part.view(TYPES[tensor["dtype"]]).view(tensor["shape"])
    return tensors


def save(path, tensors):
    names = {dtype: name for name, dtype in TYPES.items()}
    header, place, parts = {}, 0, []
    for name, tensor in tensors.items():
        tensor = tensor.contiguous()
        part = ctypes.string_at(tensor.data_ptr(), tensor.nbytes)
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [place, place + len(part)]}
        place, parts = place + len(part), [*parts, part]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


class Policy(torch.nn.Module):
    """pi0, or pi0.5, on the weights of a checkpoint."""

    def __init__(self, folder, device, dtype):
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        sizes = config.get("architecture", {"vision": SIGLIP, "vlm": GEMMA_2B, "expert": GEMMA_300M})
        self.vision, self.vlm, self.expert = sizes["vision"], sizes["vlm"], sizes["expert"]
        self.image = config.get("image_resolution", [224, 224])[0]
        self.horizon, self.actions = config["chunk_size"], config["max_action_dim"]
        self.states = config.get("max_state_dim", self.actions)
        self.prompt, self.steps = config["tokenizer_max_length"], config["num_inference_steps"]
        self.heads, self.head_dim = self.vlm["num_attention_heads"], self.vlm["head_dim"]
        self.is_pi05 = config["type"] == "pi05"
        self.dtype, self.device = dtype, device
        self.weights = {}
        for file in sorted(folder.glob("*.safetensors")):
            for name, value in load(file).items():
                own = torch.float32 if any(part in name for part in EXACT) else dtype
                self.weights[name] = value.to(device, own)
        frequencies = 10_000.0 ** -(torch.arange(0, self.head_dim, 2, device=device).float() / self.head_dim)
        self.frequencies = frequencies

    def linear(self, x, name):
        weight = self.weights[name + ".weight"]
        return F.linear(x.to(weight.dtype), weight, self.weights.get(name + ".bias"))

    def layer_norm(self, x, name):
        weights = self.weights[name + ".weight"], self.weights[name + ".bias"]
        return F.layer_norm(x.float(), x.shape[-1:], *weights, 1e-6).to(self.dtype)

    def norm(self, x, name, condition=None):
        """Gemma's RMSNorm, or with a condition adaRMS: what it gives, and the gate of the residual behind it."""
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        if condition is None:
            return (y * (1 + self.weights[name + ".weight"])).to(self.dtype), None
        scale, shift, gate = self.linear(condition, name + ".dense").chunk(3, -1)
        return (y * (1 + scale) + shift).to(self.dtype), gate

    def rotate(self, x, angles):
        low, high = x.float().chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1).to(self.dtype)

    def see(self, images):
        """`[n, 3, side, side]` in [-1, 1] to `[n, patches, vlm]`."""
        heads, size = self.vision["num_attention_heads"], self.vision["patch_size"]
        weight, bias = (self.weights[f"{VISION}embeddings.patch_embedding.{part}"] for part in ("weight", "bias"))
        x = F.conv2d(images, weight, bias, stride=size).flatten(2).transpose(1, 2)
        x = (x + self.weights[VISION + "embeddings.position_embedding.weight"]).to(self.dtype)
        for layer in range(self.vision["num_hidden_layers"]):
            at = f"{VISION}encoder.layers.{layer}."
            y = self.layer_norm(x, at + "layer_norm1")
            q, k, v = (self.linear(y, f"{at}self_attn.{part}_proj").unflatten(-1, (heads, -1)).transpose(1, 2) for part in "qkv")
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.linear(y, at + "self_attn.out_proj")
            y = self.linear(self.layer_norm(x, at + "layer_norm2"), at + "mlp.fc1")
            x = x + self.linear(F.gelu(y, approximate="tanh"), at + "mlp.fc2")
        return self.linear(self.layer_norm(x, VISION + "post_layernorm"), PROJECTOR)

    def project(self, x, at, angles):
        """Queries, keys and values `[heads, tokens, head_dim]` of one layer, rotated."""
        q = self.linear(x, at + "self_attn.q_proj").unflatten(-1, (self.heads, -1)).transpose(0, 1)
        k, v = self.linear(x, at + "self_attn.k_proj")[None], self.linear(x, at + "self_attn.v_proj")[None]
        return self.rotate(q, angles), self.rotate(k, angles), v

    def finish(self, x, q, k, v, mask, at, gate, condition):
        """A layer's attention and its MLP."""
        k, v = k.expand(self.heads, -1, -1), v.expand(self.heads, -1, -1)
        y = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        y = self.linear(y.transpose(0, 1).flatten(1), at + "self_attn.o_proj")
        x = x + (y if gate is None else (y * gate).to(self.dtype))
        y, gate = self.norm(x, at + "post_attention_layernorm", condition)
        gated = F.gelu(self.linear(y, at + "mlp.gate_proj"), approximate="tanh") * self.linear(y, at + "mlp.up_proj")
        y = self.linear(gated, at + "mlp.down_proj")
        return x + (y if gate is None else (y * gate).to(self.dtype))

    def prefix(self, images, tokens):
        """`[cameras, 3, side, side]` and the prompt's tokens to keys and values of every layer `[layers, 1, tokens, head_dim]`."""
        said = self.weights[TOKENS][tokens] * math.sqrt(self.vlm["hidden_size"])
        x = torch.cat([self.see(images).flatten(0, 1), said])
        angles = torch.arange(len(x), device=self.device)[:, None] * self.frequencies
        keys, values = [], []
        for layer in range(self.vlm["num_hidden_layers"]):
            at = f"{LANGUAGE}layers.{layer}."
            q, k, v = self.project(self.norm(x, at + "input_layernorm")[0], at, angles)
            keys.append(k)
            values.append(v)
            if layer + 1 < self.vlm["num_hidden_layers"]:  # Nobody reads what would come out of the last.
                x = self.finish(x, q, k, v, None, at, None, None)
        return torch.stack(keys), torch.stack(values)

    def sinusoid(self, t):
        """Sines and cosines of a time, in f64 as the reference has them: `[1, expert]`."""
        half = self.expert["hidden_size"] // 2
        period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, half, dtype=torch.float64, device=self.device)
        angle = 2 * math.pi / period * t.double()
        return torch.cat([angle.sin(), angle.cos()])[None].float()

    def step(self, keys, values, state, x, t, dt):
        """One Euler step of the flow x `[horizon, actions]`, which is at time t."""
        time, condition, mask = self.sinusoid(t), None, None
        rows = self.linear(x, "action_in_proj")
        prefix, horizon = keys.shape[2], len(x)
        if self.is_pi05:
            condition = time
            for name in ("time_mlp_in", "time_mlp_out"):
                condition = F.silu(self.linear(condition, name))
        else:
            rows = torch.cat([rows, time.expand(horizon, -1)], 1)
            rows = self.linear(F.silu(self.linear(rows, "action_time_mlp_in")), "action_time_mlp_out")
            rows = torch.cat([self.linear(state[None], "state_proj"), rows])
            mask = torch.ones(horizon + 1, prefix + horizon + 1, dtype=torch.bool, device=self.device)
            # The state's row sees no action.
            mask[0, prefix + 1 :] = False
        y = rows.to(self.dtype)
        angles = (prefix + torch.arange(len(y), device=self.device))[:, None] * self.frequencies
        for layer in range(self.vlm["num_hidden_layers"]):
            at = f"{EXPERT}layers.{layer}."
            normed, gate = self.norm(y, at + "input_layernorm", condition)
            q, k, v = self.project(normed, at, angles)
            k, v = torch.cat([keys[layer], k], 1), torch.cat([values[layer], v], 1)
            y = self.finish(y, q, k, v, mask, at, gate, condition)
        out = self.norm(y, EXPERT + "norm", condition)[0][-horizon:]
        return x + dt * self.linear(out, "action_out_proj")


def draw(policy, cameras, tokens):
    """Inputs as `pi0_node infer` reads them."""
    generator = torch.Generator().manual_seed(2)
    uniform = lambda *shape: 2 * torch.rand(shape, generator=generator) - 1
    inputs = {f"image_{camera}": uniform(3, policy.image, policy.image) for camera in range(cameras)}
    mask = torch.arange(policy.prompt) < tokens
    return inputs | {
        "image_masks": torch.ones(cameras, dtype=torch.bool), "token_mask": mask,
        "tokens": torch.arange(1, policy.prompt + 1, dtype=torch.int32) * mask,
        "state": uniform(policy.states), "noise": torch.randn(policy.horizon, policy.actions, generator=generator),
    }


class Runner:
    """From inputs on the host to actions on the host."""

    def __init__(self, policy, inputs, steps, mode):
        self.policy, self.steps, self.cuda = policy, steps, policy.device.type == "cuda"
        cameras = sum(name.startswith("image_") and name != "image_masks" for name in inputs)
        images = torch.stack([inputs[f"image_{camera}"] for camera in range(cameras)])
        host = [images, inputs["tokens"][inputs["token_mask"]].long(), inputs["state"], inputs["noise"]]
        self.host = [tensor.pin_memory() if self.cuda else tensor for tensor in host]
        compiled = (lambda function: torch.compile(function, mode=mode)) if mode else (lambda function: function)
        self.prefix, self.step = compiled(policy.prefix), compiled(policy.step)
        self.is_graph = bool(mode) and self.cuda
        device = policy.device
        self.times = [torch.tensor(1 - step / steps, dtype=torch.float64, device=device) for step in range(steps)]
        self.dt = torch.tensor(-1 / steps, device=device)

    def wait(self):
        if self.cuda:
            torch.cuda.synchronize()

    @torch.inference_mode()
    def run(self):
        """Actions, and milliseconds until the prefix was there and until the end."""
        start = time.perf_counter()
        if self.is_graph:
            torch.compiler.cudagraph_mark_step_begin()
        images, tokens, state, x = (tensor.to(self.policy.device, non_blocking=True) for tensor in self.host)
        # Graphs reuse their memory.
        own = (lambda tensor: tensor.clone()) if self.is_graph else (lambda tensor: tensor)
        keys, values = (own(tensor) for tensor in self.prefix(images, tokens))
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if self.cuda else []
        [end.record() for end in ends[:1]]
        middle = time.perf_counter()
        for t in self.times:
            x = own(self.step(keys, values, state, x, t, self.dt))
        [end.record() for end in ends[1:]]
        actions = x.cpu()
        total = (time.perf_counter() - start) * 1e3
        act = ends[0].elapsed_time(ends[1]) if self.cuda else total - (middle - start) * 1e3
        return actions, act, total


def percentile(values, share):
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)]


def compare(found, expected):
    """Correlation (PCC) and relative rms of two tensors."""
    found, expected = found.double().flatten(), expected.double().flatten()
    pcc = torch.corrcoef(torch.stack([found, expected]))[0, 1].item()
    return pcc, ((found - expected).norm() / expected.norm()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--checkpoint", type=pathlib.Path, required=True)
    add("--cameras", type=int, default=3)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=DTYPES, default="bf16")
    add("--steps", type=int, help="default: the checkpoint's")
    add("--prompt-tokens", type=int, help="real tokens of the prompt; default: all there are")
    add("--runs", type=int, default=20)
    add("--compile", nargs="?", const="reduce-overhead", metavar="MODE", help="torch.compile; its default here is %(const)s")
    add("--inputs", type=pathlib.Path, help="inputs of `pi0_node infer`; written if the file is not there")
    add("--actions", type=pathlib.Path, help="what `pi0_node infer` made of them, to compare with")
    add("--least-pcc", type=float, default=0.99, help="below this correlation of the actions the command fails")
    add("--json", type=pathlib.Path, help="also write the report here, in the form of `pi0_node bench --json`")
    add("--against", type=pathlib.Path, help="a report of `pi0_node bench` to compare with")
    options = parser.parse_args()
    device = torch.device(options.device)
    policy = Policy(options.checkpoint, device, DTYPES[options.dtype])
    if options.inputs and options.inputs.exists():
        inputs = load(options.inputs)
    else:
        inputs = draw(policy, options.cameras, options.prompt_tokens or policy.prompt)
        if options.inputs:
            save(options.inputs, inputs)
            return print(f"inputs written to {options.inputs}")
    steps = options.steps or policy.steps
    runner = Runner(policy, inputs, steps, options.compile)
    start = time.perf_counter()
    # Twice: the second records CUDA graphs.
    for _ in range(3 if options.compile else 1):
        actions, _, _ = runner.run()
    compile_s = time.perf_counter() - start
    assert actions.isfinite().all(), "the actions are not finite"
    found = [runner.run()[1:] for _ in range(options.runs)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    stages = [{"name": stage, "median_ms": statistics.median(values), "best_ms": min(values), "p99_ms": percentile(values, 0.99)}
              for stage, values in zip(("act", "cycle"), zip(*found, strict=True), strict=True)]
    report = {
        "device": f"PyTorch {torch.__version__} ({name}, {options.dtype}, {options.compile or 'eager'})", "dtype": options.dtype,
        "cameras": sum(key.startswith("image_") for key in inputs) - 1, "steps": steps,
        "prompt_tokens": int(inputs["token_mask"].sum()), "runs": options.runs, "compile_s": compile_s, "stages": stages,
    }
    ours = json.loads(options.against.read_text()) if options.against else None
    print(", ".join(f"{key} {report[key]}" for key in ("device", "cameras", "steps", "prompt_tokens", "runs")))
    for key in ("cameras", "steps", "prompt_tokens") if ours else ():
        if ours[key] != report[key]:
            parser.error(f"{options.against} has {key} {ours[key]}, not {report[key]}")
    for stage in stages:
        line = "{name:<6} median {median_ms:9.3f} ms  best {best_ms:9.3f}  p99 {p99_ms:9.3f}".format(**stage)
        for other in ours["stages"] if ours else ():
            if other["name"] == stage["name"]:
                ratio = stage["median_ms"] / other["median_ms"]
                stage["times_ours"] = ratio
                line += f"   pi0_node {other['median_ms']:9.3f} ms: {ratio:.2f} times as fast"
        print(line)
    if options.actions:
        theirs = load(options.actions)["actions"].reshape(actions.shape)
        pcc, rms = compare(theirs, actions)
        report |= {"actions_pcc": pcc, "actions_relative_rms": rms}
        print(f"actions: correlation {pcc:.6f}, relative rms {rms:.2e}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.actions and not pcc >= options.least_pcc:
        raise SystemExit(f"the actions are not pi0_node's: correlation {pcc:.6f} is below {options.least_pcc}")


if __name__ == "__main__":
    main()
