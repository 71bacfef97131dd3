"""pi0 in PyTorch, as small as it can be said: the model that the node runs, with gradients. Called by train.py and reference.py.

The formulas are those of src/policy (openpi's and lerobot's model); weights are a dictionary by the checkpoint's names, so that what is
trained is what is saved. lerobot's own model and the node's `infer` give the same actions (docs/policy.md).

What differs from running it: for one observation several noises are denoised at once (`draws`), because what the cameras see costs
more than the action expert, and each draw teaches as much.
"""

import json
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

PALIGEMMA = "paligemma_with_expert.paligemma."
VISION = PALIGEMMA + "model.vision_tower.vision_model."
PROJECTOR = PALIGEMMA + "model.multi_modal_projector.linear"
LANGUAGE = PALIGEMMA + "model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
TOKENS = PALIGEMMA + "lm_head.weight"


@dataclass(frozen=True)
class Sizes:
    """What config.json says."""

    vision: int = 128
    vision_layers: int = 4
    vision_heads: int = 4
    vision_mlp: int = 384
    patch: int = 28
    image: int = 224
    vlm: int = 160
    layers: int = 4
    vlm_mlp: int = 480
    heads: int = 8
    head_dim: int = 32
    vocabulary: int = 320
    expert: int = 128
    expert_mlp: int = 384
    horizon: int = 50
    actions: int = 14
    states: int = 14
    steps: int = 10
    prompt: int = 16
    most_given: int = 0

    def config(self):
        """config.json, as the node reads it."""
        config = {
            "type": "pi0", "chunk_size": self.horizon, "max_action_dim": self.actions, "max_state_dim": self.states,
            "num_inference_steps": self.steps, "tokenizer_max_length": self.prompt,
            "image_resolution": [self.image, self.image],
            "architecture": {
                "vision": {"hidden_size": self.vision, "num_hidden_layers": self.vision_layers,
                           "num_attention_heads": self.vision_heads, "intermediate_size": self.vision_mlp,
                           "patch_size": self.patch},
                "vlm": {"hidden_size": self.vlm, "num_hidden_layers": self.layers, "intermediate_size": self.vlm_mlp,
                        "num_attention_heads": self.heads, "num_key_value_heads": 1, "head_dim": self.head_dim,
                        "vocab_size": self.vocabulary},
                "expert": {"hidden_size": self.expert, "intermediate_size": self.expert_mlp},
            },
        }
        if self.most_given:
            config["rtc_training_max_delay"] = self.most_given
        return json.dumps(config, indent=2) + "\n"

    def shapes(self):
        """Shape of every weight, by its name in the checkpoint."""
        width, tokens = self.vision, (self.image // self.patch) ** 2
        shapes = {
            VISION + "embeddings.patch_embedding.weight": (width, 3, self.patch, self.patch),
            VISION + "embeddings.patch_embedding.bias": (width,),
            VISION + "embeddings.position_embedding.weight": (tokens, width),
            VISION + "post_layernorm.weight": (width,), VISION + "post_layernorm.bias": (width,),
            PROJECTOR + ".weight": (self.vlm, width), PROJECTOR + ".bias": (self.vlm,),
            TOKENS: (self.vocabulary, self.vlm),
        }
        for layer in range(self.vision_layers):
            at = f"{VISION}encoder.layers.{layer}."
            for name, out, into in [("self_attn.q_proj", width, width), ("self_attn.k_proj", width, width),
                                    ("self_attn.v_proj", width, width), ("self_attn.out_proj", width, width),
                                    ("mlp.fc1", self.vision_mlp, width), ("mlp.fc2", width, self.vision_mlp)]:
                shapes |= {f"{at}{name}.weight": (out, into), f"{at}{name}.bias": (out,)}
            for norm in ("layer_norm1", "layer_norm2"):
                shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        for root, width, mlp in [(LANGUAGE, self.vlm, self.vlm_mlp), (EXPERT, self.expert, self.expert_mlp)]:
            for layer in range(self.layers):
                at = f"{root}layers.{layer}."
                queries = self.heads * self.head_dim
                shapes |= {
                    at + "self_attn.q_proj.weight": (queries, width), at + "self_attn.k_proj.weight": (self.head_dim, width),
                    at + "self_attn.v_proj.weight": (self.head_dim, width), at + "self_attn.o_proj.weight": (width, queries),
                    at + "mlp.gate_proj.weight": (mlp, width), at + "mlp.up_proj.weight": (mlp, width),
                    at + "mlp.down_proj.weight": (width, mlp),
                    at + "input_layernorm.weight": (width,), at + "post_attention_layernorm.weight": (width,),
                }
            shapes[root + "norm.weight"] = (width,)
        expert = self.expert
        for name, out, into in [("action_in_proj", expert, self.actions), ("action_out_proj", self.actions, expert),
                                ("state_proj", expert, self.states), ("action_time_mlp_in", expert, 2 * expert),
                                ("action_time_mlp_out", expert, expert)]:
            shapes |= {name + ".weight": (out, into), name + ".bias": (out,)}
        return shapes


def random_weights(sizes, generator):
    """Weights to start from: products keep a row's size, norms do nothing."""
    weights = {}
    for name, shape in sizes.shapes().items():
        if "norm" in name:
            # SigLIP's norms multiply by the weight, Gemma's by one plus the weight.
            value = torch.ones(shape) if name.startswith(VISION) and name.endswith("weight") else torch.zeros(shape)
        elif name.endswith("bias"):
            value = torch.zeros(shape)
        elif name == TOKENS or "position_embedding" in name:
            value = 0.02 * torch.randn(shape, generator=generator)
        else:
            value = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        weights[name] = value
    return weights


class Pi0:
    """The model on weights that somebody else holds."""

    def __init__(self, sizes, weights):
        self.sizes, self.weights = sizes, weights
        self.frequencies = 1.0 / 10_000.0 ** (torch.arange(0, sizes.head_dim, 2).float() / sizes.head_dim)

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def norm(self, x, name):
        """Gemma's RMSNorm."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weights[name + ".weight"])

    def rotate(self, x, positions):
        """RoPE of `[.., tokens, head_dim]`, halves together."""
        angles = positions[:, None].float() * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        low, high = x.chunk(2, -1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)

    def see(self, images):
        """SigLIP and the projector: `[n, 3, side, side]` in [-1, 1] to `[n, patches, vlm]`."""
        sizes, at = self.sizes, VISION
        # A convolution with the patch as its stride is a product of patches.
        n, side = images.shape[0], sizes.image // sizes.patch
        patches = images.view(n, 3, side, sizes.patch, side, sizes.patch).permute(0, 2, 4, 1, 3, 5).reshape(n, side * side, -1)
        weight = self.weights[at + "embeddings.patch_embedding.weight"].flatten(1)
        x = F.linear(patches, weight, self.weights[at + "embeddings.patch_embedding.bias"])
        x = x + self.weights[at + "embeddings.position_embedding.weight"]
        layer_norm = lambda x, name: F.layer_norm(
            x, x.shape[-1:], self.weights[name + ".weight"], self.weights[name + ".bias"], 1e-6)
        for layer in range(sizes.vision_layers):
            of = f"{at}encoder.layers.{layer}."
            y = layer_norm(x, of + "layer_norm1")
            q, k, v = (self.linear(y, f"{of}self_attn.{part}_proj").unflatten(-1, (sizes.vision_heads, -1)).transpose(1, 2)
                       for part in "qkv")
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + self.linear(y, of + "self_attn.out_proj")
            y = self.linear(layer_norm(x, of + "layer_norm2"), of + "mlp.fc1")
            x = x + self.linear(F.gelu(y, approximate="tanh"), of + "mlp.fc2")
        return self.linear(layer_norm(x, at + "post_layernorm"), PROJECTOR)

    def project(self, x, at, positions):
        """Queries `[n, heads, tokens, head_dim]`, keys and values `[n, tokens, head_dim]` of one layer, rotated."""
        q = self.linear(x, at + "self_attn.q_proj").unflatten(-1, (self.sizes.heads, -1)).transpose(-2, -3)
        k, v = self.linear(x, at + "self_attn.k_proj"), self.linear(x, at + "self_attn.v_proj")
        return self.rotate(q, positions), self.rotate(k, positions), v

    def mlp(self, x, at):
        gate = F.gelu(self.linear(x, at + "mlp.gate_proj"), approximate="tanh")
        return self.linear(gate * self.linear(x, at + "mlp.up_proj"), at + "mlp.down_proj")

    def prefix(self, images, tokens):
        """`[n, cameras, 3, side, side]` and the prompt's `[tokens]` to keys and values of every layer, and the rows that the last
        layer reads `[n, prefix, vlm]`."""
        n, cameras = images.shape[:2]
        seen = self.see(images.flatten(0, 1)).unflatten(0, (n, cameras)).flatten(1, 2)
        said = self.weights[TOKENS][tokens] * math.sqrt(self.sizes.vlm)
        x = torch.cat([seen, said.expand(n, -1, -1)], 1)
        positions = torch.arange(x.shape[1])
        cache = []
        for layer in range(self.sizes.layers):
            at = f"{LANGUAGE}layers.{layer}."
            q, k, v = self.project(self.norm(x, at + "input_layernorm"), at, positions)
            cache.append((k, v))
            if layer + 1 == self.sizes.layers:
                break  # Nobody reads what would come out of it.
            y = F.scaled_dot_product_attention(q, k[:, None].expand_as(q), v[:, None].expand_as(q))
            x = x + self.linear(y.transpose(1, 2).flatten(2), at + "self_attn.o_proj")
            x = x + self.mlp(self.norm(x, at + "post_attention_layernorm"), at)
        return cache, x

    def time(self, t):
        """The sinusoid of times `[..]`: `[.., expert]`, in f64 as the reference has it."""
        half = self.sizes.expert // 2
        period = 4e-3 * (4.0 / 4e-3) ** torch.linspace(0, 1, half, dtype=torch.float64)
        angle = t.double()[..., None] * (2 * math.pi / period)
        return torch.cat([angle.sin(), angle.cos()], -1).float()

    def velocity(self, cache, state, x, t):
        """`state [n, states]`, `x [n, draws, horizon, actions]`, its times `t [n, draws, horizon]` to velocities like `x`."""
        sizes, (n, draws) = self.sizes, x.shape[:2]
        prefix = cache[0][0].shape[1]
        rows = self.linear(torch.cat([self.linear(x, "action_in_proj"), self.time(t)], -1), "action_time_mlp_in")
        rows = self.linear(F.silu(rows), "action_time_mlp_out")
        state = self.linear(state, "state_proj")[:, None, None].expand(-1, draws, 1, -1)
        x = torch.cat([state, rows], 2)
        suffix = x.shape[2]
        positions = prefix + torch.arange(suffix)
        # The state's row sees no action.
        hidden = torch.zeros(suffix, suffix)
        hidden[0, 1:] = -torch.inf
        for layer, (keys, values) in enumerate(cache):
            at = f"{EXPERT}layers.{layer}."
            q, k, v = self.project(self.norm(x, at + "input_layernorm"), at, positions)
            q = q * sizes.head_dim**-0.5
            # Draws share the prefix: its keys stand once for all of them.
            to_prefix = (q.flatten(1, 3) @ keys.transpose(1, 2)).unflatten(1, (draws, sizes.heads, suffix))
            to_suffix = q @ k[:, :, None].transpose(-1, -2) + hidden
            chances = torch.cat([to_prefix, to_suffix], -1).softmax(-1)
            of_prefix, of_suffix = chances.split([prefix, suffix], -1)
            y = (of_prefix.flatten(1, 3) @ values).unflatten(1, (draws, sizes.heads, suffix)) + of_suffix @ v[:, :, None]
            x = x + self.linear(y.transpose(2, 3).flatten(3), at + "self_attn.o_proj")
            x = x + self.mlp(self.norm(x, at + "post_attention_layernorm"), at)
        return self.linear(self.norm(x, EXPERT + "norm")[:, :, 1:], "action_out_proj")

    @torch.no_grad()
    def act(self, images, tokens, state, noise, steps=None):
        """Actions `[n, horizon, actions]` in the model's units, from noise at t = 1 to t = 0."""
        cache, _ = self.prefix(images, tokens)
        steps = steps or self.sizes.steps
        x = noise[:, None]
        for step in range(steps):
            t = torch.full(x.shape[:-1], 1 - step / steps)
            x = x - self.velocity(cache, state, x, t) / steps
        return x[:, 0]
