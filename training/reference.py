#!/usr/bin/env python3
"""The policy in the simulator without the node: images, statistics, prompt and model by other code than the node's. The rate of success
must be that of `pi0_node evaluate` with no latency. By hand:

    python reference.py CHECKPOINT --attempts 50                  the model of pi0.py
    python reference.py CHECKPOINT --attempts 50 --lerobot        lerobot's PI0Pytorch (requirements-reference.txt)

A chunk is followed until the next one replaces it, as the node's `chunk_join: replace` has it.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch

import camera
import checkpoint
from expert import HOME
from pi0 import Pi0
from robots import Aloha, Pictures
from task import STAGES, Task, place_cube
from train import PROMPT, normal

TICK_SECONDS = 0.02


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parser.add_argument("checkpoint", type=pathlib.Path)
    add("--attempts", type=int, default=50)
    add("--seed", type=int, default=1_000_000, help="of the first attempt's cube; the others' follow")
    add("--seconds", type=float, default=10.0, help="an attempt ends after so long")
    add("--every", type=int, default=5, help="ticks of 20 ms from a chunk to the next")
    add("--lerobot", action="store_true")
    options = parser.parse_args()
    sizes, weights, statistics = checkpoint.load(options.checkpoint)
    if options.lerobot:
        from lerobot_model import Lerobot

        model = Lerobot(sizes, weights)
    else:
        model = Pi0(sizes, weights)
    tokens = torch.tensor(checkpoint.tokenize(PROMPT))
    robot = Aloha()
    pictures = Pictures(robot, 320, 240, shadows=False)
    reached = np.zeros(len(STAGES), int)
    for attempt in range(options.attempts):
        seed = options.seed + attempt
        generator = torch.Generator().manual_seed(seed)
        robot.reset(HOME, place_cube(np.random.default_rng(seed)))
        task, begun = Task(robot), time.monotonic()
        for tick in range(round(options.seconds / TICK_SECONDS)):
            if tick % options.every == 0:
                pictures.take(robot)
                image = camera.pad(camera.resize(pictures.draw("top"), sizes.image), sizes.image)
                state = normal(np.array(robot.joints()[0]), statistics["state"])
                noise = torch.randn(1, sizes.horizon, sizes.actions, generator=generator)
                actions = model.act(image[None, None], tokens, torch.tensor(state, dtype=torch.float32)[None], noise)
                deviation, mean = (np.array(statistics["actions"][key]) for key in ("std", "mean"))
                chunk = actions[0].numpy() * (deviation + 1e-6) + mean
            robot.advance(chunk[tick % options.every + 1], TICK_SECONDS)
            if task.look() == len(STAGES) - 1:
                break
        reached[: task.best + 1] += 1
        line = {"seed": seed, "stage": task.best, "ticks": tick + 1, "seconds": round(time.monotonic() - begun, 1)}
        print(json.dumps(line), flush=True)
    print(f"of {options.attempts}: " + ", ".join(f"{name} {count}" for name, count in zip(STAGES[1:], reached[1:])))


if __name__ == "__main__":
    main()
