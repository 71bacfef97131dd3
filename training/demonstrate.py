#!/usr/bin/env python3
"""Records demonstrations: the scripted expert in the simulated ALOHA, seen by the cameras that the node sees. Called by
`cargo xtask train`; by hand:

    python demonstrate.py OUT --episodes 6500 --seed 1

An episode is a cube at a place of its own. The joints are led beside the plan now and then, and the label is the plan, so that a policy
learns to come back to it; episodes that fail for it are thrown away. Some begin where the right hand has closed beside the cube, and some
with the arms not quite at home. Of each a few moments are kept with their image, more of those before the grasp, where the cube's place
matters.

Writes into OUT: images.npy `[moments, height, width, 3]`, moments.npy `[moments, 2]` (episode, tick), and of each episode and tick
states.npy, plans.npy, besides.npy (how far beside the plan it was led), `[.., 14]`, and cubes.npy `[.., 3]`.
"""

import argparse
import multiprocessing
import pathlib

import numpy as np

import camera
import expert  # It knows where the simulator's modules are.
from robots import CUBE_HEIGHT, HOME, Aloha, Pictures
from task import Task, place_cube

# Of the images that the simulator publishes, and of those that the model sees.
WIDTH, HEIGHT, SIDE = 320, 240, 224
# How far the joints are led beside the plan, radians; grippers not.
BESIDE = 0.02
GRASPED = 122
EARLY = 0.65
# How many begin with a grasp that has missed, by how much, metres, and at which of its plan's ticks: closed, or already on the way up.
MISSED = 0.4
MISSED_BY = 0.03, 0.06
MISSED_AT = 114, 145
# A gripper that is further open has something in it, and a cube that is higher is not on the table: then nothing was missed.
CLOSED_ON_NOTHING, ON_TABLE = 0.3, 0.03
TRACES = ("states", "plans", "besides", "cubes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--episodes", type=int, default=6500)
    parser.add_argument("--moments", type=int, default=12, help="kept of each episode")
    parser.add_argument("--seed", type=int, default=1, help="of the first episode; the others' follow")
    parser.add_argument("--camera", default="top")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.episodes < 1 or options.moments < 2:
        parser.error("there must be at least one episode and two moments of each")
    options.out.mkdir(parents=True, exist_ok=True)

    seeds = range(options.seed, options.seed + options.episodes)
    kept, failed = [], 0
    shape = (options.episodes * options.moments, *camera.resize(np.zeros((HEIGHT, WIDTH, 3), np.uint8), SIDE).shape)
    images = np.lib.format.open_memmap(options.out / "images.npy", "w+", np.uint8, shape)
    moments = []
    with multiprocessing.get_context("spawn").Pool(options.processes, begin, (options.camera, options.moments)) as pool:
        for done, episode in enumerate(pool.imap(record, seeds, chunksize=4), 1):
            if episode is None:
                failed += 1
            else:
                *traces, ticks, seen = episode
                images[len(moments) : len(moments) + len(ticks)] = seen
                moments += [(len(kept), tick) for tick in ticks]
                kept.append(traces)
            if done % 100 == 0:
                print(f"{done} of {options.episodes} episodes, {failed} failed", flush=True)
    images.flush()
    for name, part in zip(TRACES, zip(*kept)):
        np.save(options.out / f"{name}.npy", np.stack(part))
    np.save(options.out / "moments.npy", np.array(moments))


def begin(camera_name, moments):
    global settings
    settings = (camera_name, moments)


def record(seed):
    """One episode, or None if the cube did not arrive."""
    camera_name, moments = settings
    random = np.random.default_rng(seed)
    robot = scene()
    home = start(random)
    robot.reset(home, place_cube(random))
    try:
        here = miss(random, home) if random.random() < MISSED else home
        plan = expert.plan(robot, [*robot.cube()[:2], CUBE_HEIGHT], here, random).astype(np.float32)
    except ValueError:
        return None
    task = Task(robot)
    early = round(EARLY * moments)
    ticks = {*random.integers(0, GRASPED, early), *random.integers(GRASPED, expert.TICKS, moments - early)}
    states, cubes, seen = [], [], []
    besides = wander(random).astype(np.float32)
    for tick, beside in enumerate(besides):
        states.append(robot.joints()[0])
        cubes.append(robot.cube())
        if tick in ticks:
            pictures.take(robot)
            seen.append(camera.resize(pictures.draw(camera_name), SIDE))
        robot.advance(plan[tick + 1] + beside, 0.02)
        task.look()
    if not task.done():
        return None
    return np.array(states, np.float32), plan, besides, np.array(cubes, np.float32), sorted(ticks), np.array(seen)


def scene():
    """This process's robot; GL allows one at a time."""
    global robot, pictures
    if "robot" not in globals():
        robot = Aloha()
        pictures = Pictures(robot, WIDTH, HEIGHT, shadows=False)
    return robot


def start(random):
    """Joints at home, nearly; grippers as the start or the last hand-over left them."""
    joints = np.array(HOME) + random.normal(0, random.choice([0.01, 0.05]), 14)
    joints[6], joints[13] = random.uniform(0, 0.2, 2)
    return joints


def miss(random, home):
    """The right hand closes beside the cube; where the joints are led then. Raises ValueError where it could not get there, or took the
    cube."""
    angle, distance = random.uniform(0, 2 * np.pi), random.uniform(*MISSED_BY)
    beside = robot.cube() + distance * np.array([np.cos(angle), np.sin(angle), 0.0])
    for joints in expert.plan(robot, beside, home, random)[1 : random.integers(*MISSED_AT)]:
        robot.advance(joints, 0.02)
    if robot.joints()[0][13] > CLOSED_ON_NOTHING or robot.cube()[2] > ON_TABLE:
        raise ValueError("it did not miss")
    return joints


def wander(random):
    """Slow waves, for each joint of its own: `[TICKS, 14]`, in some episodes none."""
    ticks = np.arange(expert.TICKS)[:, None]
    waves = sum(np.sin(2 * np.pi * (ticks / period + random.uniform(0, 1, 14))) for period in random.uniform(30, 150, 3))
    size = random.choice([0.0, 0.5, 1.0]) * BESIDE
    beside = waves / np.sqrt(1.5) * size
    beside[:, [6, 13]] = 0
    return beside


if __name__ == "__main__":
    main()
