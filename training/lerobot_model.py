"""lerobot's own pi0 with a checkpoint's weights, in the place of pi0.py's. Called by reference.py --lerobot.

Built as tests/golden/generate.py builds it: lerobot's code as it is, but for the sizes that its constructors fix.
"""

import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests/golden"))

import generate


class Lerobot:
    def __init__(self, sizes, weights):
        self.model = generate.build(generate.SIZES | dict(
            v_width=sizes.vision, v_depth=sizes.vision_layers, v_heads=sizes.vision_heads, v_mlp=sizes.vision_mlp,
            patch=sizes.patch, image=sizes.image, width=sizes.vlm, depth=sizes.layers, mlp=sizes.vlm_mlp, heads=sizes.heads,
            head_dim=sizes.head_dim, e_width=sizes.expert, e_mlp=sizes.expert_mlp, vocab=sizes.vocabulary,
            action_dim=sizes.actions, horizon=sizes.horizon, tok_len=sizes.prompt, steps=sizes.steps))
        generate.load_weights(self.model, weights)

    def act(self, images, tokens, state, noise):
        """As Pi0.act."""
        cameras = images.shape[1]
        masks = [torch.ones(1, dtype=torch.bool)] * cameras
        with torch.no_grad():
            return self.model.sample_actions(
                list(images.unbind(1)), masks, tokens[None], torch.ones(1, len(tokens), dtype=torch.bool), state, noise=noise.clone())
