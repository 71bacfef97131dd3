#!/usr/bin/env python3
"""The simulated ALOHA without ROS, for `pi0_node evaluate`: a tick at a time through standard input and output.

Questions are lines of JSON, each has one answer, a line of JSON:

    {"begin": SEED}              the arms at home and the cube where the seed puts it -> how everything is
    {"advance": [POSITIONS]}     a control step with the joints led there             -> how everything is
    {"draw": [CAMERAS]}          -> {"width", "height"}, and behind it the images' bytes, RGB, one after the other

How everything is: {"names", "positions", "velocities", "stage", "cube"}; the stage is the best so far (task.py). It ends with its input.
"""

import argparse
import json
import signal
import sys

import numpy as np

from robots import HOME, JOINTS, Aloha, Missing, Pictures
from task import Task, place_cube

STEP_SECONDS = 0.02


def main():
    parser = argparse.ArgumentParser(description="The simulated ALOHA without ROS, through standard input and output.")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--height", type=int, default=240)
    options = parser.parse_args()
    # Ctrl-C is for whoever asks; when that ends, so does the input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # Whatever a library prints is no answer.
    try:
        robot = Aloha()
        pictures = Pictures(robot, options.width, options.height, shadows=False)
    except Missing as reason:
        print(f"aloha: {reason}", file=sys.stderr)
        return 1
    task = Task(robot)
    for line in sys.stdin:
        question = json.loads(line)
        if "begin" in question:
            robot.reset(HOME, place_cube(np.random.default_rng(question["begin"])))
            task = Task(robot)
        elif "advance" in question:
            robot.advance(question["advance"], STEP_SECONDS)
            task.look()
        if "draw" in question:
            pictures.take(robot)
            answer(out, {"width": options.width, "height": options.height})
            for camera in question["draw"]:
                out.write(pictures.draw(camera).tobytes())
            out.flush()
        else:
            positions, velocities = robot.joints()
            answer(out, {"names": JOINTS, "positions": positions, "velocities": velocities, "stage": task.best,
                         "cube": robot.cube().tolist()})
            out.flush()
    pictures.close()
    return 0


def answer(out, value):
    out.write(json.dumps(value).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
