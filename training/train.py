#!/usr/bin/env python3
"""Trains pi0 on demonstrations. Called by `cargo xtask train`; by hand:

    python train.py DEMONSTRATIONS OUT --steps 6000

Flow matching as pi0 has it: x = t noise + (1 - t) actions, the velocity noise - actions, t from a Beta distribution that prefers the
noisy end. In half of the draws the first points are given (training-time real-time chunking, arXiv 2512.05964): clean, with a time of
their own of 0, and without loss. Beside that, while it trains, a linear layer says from the image's rows where the cube is, which is
what the vision tower must find out first; it is not part of the model.

OUT gets a checkpoint folder for every thousand steps and one at the end, of the weights' moving average, and log.jsonl.
"""

import argparse
import json
import math
import pathlib
import queue
import threading
import time

import numpy as np
import torch

import camera
from checkpoint import save
from pi0 import Pi0, Sizes, random_weights

PROMPT = "Transfer cube"
# For how long a chunk that starts beside the plan takes to come back to it, points.
RETURN = 25
# Noise on the state, of its deviation: the policy is to look, not to trust the joints alone.
STATE_NOISE = 0.05
HELD_OUT = 0.04
AVERAGE = 0.999


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    parser.add_argument("demonstrations", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    add("--steps", type=int, default=6000)
    add("--batch", type=int, default=32, help="observations a step")
    add("--draws", type=int, default=2, help="noises for each")
    add("--rate", type=float, default=1e-3, help="largest learning rate")
    add("--most-given", type=int, default=12, help="points of a chunk that may be given, at most")
    add("--seed", type=int, default=0)
    add("--resume", type=pathlib.Path, help="state.pt of a run that was cut off")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    torch.set_flush_denormal(True)
    torch.manual_seed(options.seed)
    data = Demonstrations(options.demonstrations)
    sizes = Sizes(most_given=options.most_given)
    tokens = torch.tensor(prompt_tokens(PROMPT))
    weights = random_weights(sizes, torch.Generator().manual_seed(options.seed))
    weights["cube.weight"], weights["cube.bias"] = torch.zeros(3, sizes.vlm), torch.zeros(3)
    average = {name: value.clone() for name, value in weights.items()}
    for value in weights.values():
        value.requires_grad_()
    matrices = [value for value in weights.values() if value.dim() > 1]
    others = [value for value in weights.values() if value.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 1e-3}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.99), fused=True)
    first = 0
    if options.resume:
        state = torch.load(options.resume)
        first = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(state["weights"][name])
                average[name].copy_(state["average"][name])

    model = Pi0(sizes, weights)

    @torch.compile
    def losses(images, states, actions, cubes, noise, times, given):
        images = camera.pad(images, sizes.image)[:, None]
        with torch.autocast("cpu", torch.bfloat16):
            cache, rows = model.prefix(images, tokens)
            cube = model.linear(rows[:, : -len(tokens)].mean(1), "cube").float()
            times = torch.where(given, 0.0, times[..., None].expand(-1, -1, sizes.horizon))
            actions = actions[:, None]
            x = times[..., None] * noise + (1 - times[..., None]) * actions
            velocity = model.velocity(cache, states, x, times).float()
        error = (velocity - (noise - actions)).square().mean(-1)
        flow = (error * ~given).sum() / (~given).sum()
        return flow, (cube - cubes).square().mean()

    def learning_rate(step):
        warm = min(1.0, (step + 1) / 300)
        return options.rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / options.steps)))

    log = open(options.out / "log.jsonl", "a")
    begun, sums = time.monotonic(), np.zeros(2)
    for step, batch in zip(range(first, options.steps), data.batches(options.batch, options.draws, sizes, options.seed + first)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        flow, cube = losses(*batch)
        (flow + 0.3 * cube).backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            keep = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), [value.detach() for value in weights.values()], 1 - keep)
        sums += flow.item(), cube.item()
        done = step + 1
        if done % 100 == 0:
            line = {"step": done, "seconds": round(time.monotonic() - begun, 1), "flow": round(float(sums[0]) / 100, 5),
                    "cube_mm": round(1000 * data.cube_deviation * math.sqrt(sums[1] / 100), 2)}
            sums[:] = 0
            print(json.dumps(line), file=log, flush=True)
            print(json.dumps(line), flush=True)
        if done % 1000 == 0 or done == options.steps:
            folder = options.out / ("checkpoint" if done == options.steps else f"step_{done:06}")
            save(folder, sizes, {name: value for name, value in average.items() if not name.startswith("cube.")}, data.statistics)
            torch.save({"step": done, "optimizer": optimizer.state_dict(), "average": average,
                        "weights": {name: value.detach() for name, value in weights.items()}}, options.out / "state.pt")


def prompt_tokens(text):
    """As the node makes them (src/observe/prompt.rs), with the checkpoint's own small tokenizer."""
    from checkpoint import tokenize

    return tokenize(text)


class Demonstrations:
    """What demonstrate.py wrote."""

    def __init__(self, folder):
        self.images = np.load(folder / "images.npy", mmap_mode="r")
        self.moments = np.load(folder / "moments.npy")
        self.states, self.plans, self.besides, self.cubes = (
            np.load(folder / f"{name}.npy") for name in ("states", "plans", "besides", "cubes"))
        episodes = len(self.states)
        train = slice(0, round((1 - HELD_OUT) * episodes))
        self.training = np.flatnonzero(self.moments[:, 0] < train.stop)
        self.held_out = np.flatnonzero(self.moments[:, 0] >= train.stop)
        flat = lambda x: x[train].reshape(-1, x.shape[-1]).astype(np.float64)
        self.statistics = {"state": statistics(flat(self.states)), "actions": statistics(flat(self.plans))}
        self.cube_mean = flat(self.cubes).mean(0)
        self.cube_deviation = float(flat(self.cubes).std())

    def batches(self, observations, draws, sizes, seed):
        """Batches for ever, made beside the training; every moment once before any comes again."""
        ready = queue.Queue(4)
        random = np.random.default_rng(seed)

        def make():
            order = np.array([], int)
            while True:
                if len(order) < observations:
                    order = random.permutation(self.training)
                chosen, order = np.sort(order[:observations]), order[observations:]
                ready.put(self.batch(chosen, draws, sizes, random))

        threading.Thread(target=make, daemon=True).start()
        while True:
            yield ready.get()

    def batch(self, chosen, draws, sizes, random):
        n, horizon = len(chosen), sizes.horizon
        episodes, ticks = self.moments[chosen].T
        states = normal(self.states[episodes, ticks], self.statistics["state"])
        states = states + STATE_NOISE * random.normal(size=states.shape)
        points = np.minimum(ticks[:, None] + np.arange(horizon), self.plans.shape[1] - 1)
        # A chunk starts where the joints were led, and comes back to the plan.
        back = 0.5 * (1 + np.cos(np.pi * np.minimum(np.arange(horizon) / RETURN, 1)))
        labels = self.plans[episodes[:, None], points] + self.besides[episodes, ticks][:, None] * back[:, None]
        actions = normal(labels, self.statistics["actions"])
        images = self.images[chosen]
        # Light changes; the cube's place does not.
        images = np.minimum(images * random.uniform(0.85, 1.15, (n, 1, 1, 1)).astype(np.float32), 255)
        count = np.where(random.random((n, draws)) < 0.5, 0, random.integers(1, max(2, sizes.most_given + 1), (n, draws)))
        given = np.arange(horizon) < count[..., None]
        times = random.beta(1.5, 1.0, (n, draws)) * 0.999 + 0.001
        tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))
        return (torch.from_numpy(images.astype(np.uint8)), tensor(states), tensor(actions),
                tensor((self.cubes[episodes, ticks] - self.cube_mean) / self.cube_deviation),
                tensor(random.normal(size=(n, draws, horizon, sizes.actions))), tensor(times), torch.from_numpy(given))


def statistics(values):
    low, high = np.quantile(values, [0.01, 0.99], axis=0)
    return {"mean": values.mean(0).tolist(), "std": values.std(0).tolist(), "q01": low.tolist(), "q99": high.tolist()}


def normal(values, statistics):
    """As the node normalises with mean and deviation."""
    return (values - np.array(statistics["mean"])) / (np.array(statistics["std"]) + 1e-6)


if __name__ == "__main__":
    main()
