#!/usr/bin/env python3
"""Runs the mini model in the live node for minutes, one camera at 30 frame sets a second, over real DDS, and says
whether it keeps its deadlines and its memory.

    .ros/bin/python benches/sustained.py --minutes 10

Run from the repository's root after `cargo build --release`. Every second it notes the node's memory and how busy
everybody else keeps the machine; at the end it reads what the node wrote. That a cycle allocates nothing is what
`cargo test --release --test no_allocation` proves; here the control thread's page faults are counted.
"""
import argparse
import json
import os
import pathlib
import platform
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "overhead"))
from processes import NODE_CHUNKS, Bench, add_arguments, run_for, summary  # noqa: E402

WANTED_MISSES = 0.001
# Memory after the first minute or tenth may grow by so much: where images of 900 kB wait for a thread that is late, each
# stage between DDS and the decoder holds one at the same time, and the allocator keeps the room.
WANTED_GROWTH_KB = 4 * 900
# A sleeping thread that only notes how late it is woken says how noisy the machine is.
NOISE_SLEEP_S = 0.01
TICKS_S = os.sysconf("SC_CLK_TCK")


def resident_kb(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def fields(stat):
    """The fields of a process's or thread's `stat`, from the third (its state) on."""
    return pathlib.Path(stat).read_text().rsplit(") ", 1)[1].split()


def cpu_s(pid):
    found = fields(f"/proc/{pid}/stat")
    return (int(found[11]) + int(found[12])) / TICKS_S


def control_faults(pid):
    """Page faults of the control thread so far, without and with a read from the disk."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == "control":
            found = fields(task / "stat")
            return int(found[7]) + int(found[9])
    return None


def machine_s():
    """Seconds of all cores: busy, and stolen by other guests of the host."""
    words = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    ticks = [int(word) for word in words]
    return (sum(ticks[:3]) + sum(ticks[5:7])) / TICKS_S, ticks[7] / TICKS_S


class Noise:
    """How late a thread that does nothing is woken."""

    def __init__(self):
        self.late_ms, self.stopped = [], False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.stopped:
            start = time.perf_counter()
            time.sleep(NOISE_SLEEP_S)
            self.late_ms.append((time.perf_counter() - start - NOISE_SLEEP_S) * 1e3)

    def stop(self):
        self.stopped = True
        self.thread.join()
        return summary(self.late_ms)


class Samples:
    """What is noted each second."""

    def __init__(self, node, source):
        self.node, self.source = node.child.pid, source.child.pid
        self.seconds = []
        self.last = None
        self.each_second()

    def each_second(self):
        now = time.monotonic()
        busy, stolen = machine_s()
        node, source = cpu_s(self.node), cpu_s(self.source)
        if self.last:
            then, busy_then, stolen_then, node_then, source_then = self.last
            took = now - then
            own = node - node_then + source - source_then
            self.seconds.append({
                "rss_kb": resident_kb(self.node), "control_faults": control_faults(self.node),
                "node_cores": (node - node_then) / took, "source_cores": (source - source_then) / took,
                "others_cores": max(0.0, (busy - busy_then - own) / took),
                "stolen_cores": (stolen - stolen_then) / took})
        self.last = now, busy, stolen, node, source


def mean(samples, name):
    return sum(sample[name] for sample in samples) / len(samples)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--minutes", type=float, default=10.0, help="length [10]")
    parser.add_argument("--preset", default="mini", help="size of the random model [mini]")
    options = parser.parse_args()

    with Bench(options) as bench:
        node = bench.start_node(bench.random_checkpoint(options.preset), 1)
        source = bench.start_source(1, NODE_CHUNKS)
        samples, noise = Samples(node, source), Noise()
        run_for(options.minutes * 60, [node, source], samples.each_second)
        late = noise.stop()
        node.stop()
        source.stop()
        report, sent = bench.latencies(), bench.source_report()

    seconds = samples.seconds
    # Thread stacks, buffers of DDS and the first pages of everything come in the beginning.
    settled = seconds[min(60, len(seconds) // 10):]
    rss = [sample["rss_kb"] for sample in settled]
    growth_kb = max(rss) - rss[0]
    faults = settled[-1]["control_faults"] - settled[0]["control_faults"]
    misses = {stage: count for stage, count in report["missed_deadlines"].items() if count}
    drops = {reason: count for reason, count in report["dropped"].items() if count}
    missed, chunks = sum(misses.values()), report["chunks"]
    share = missed / max(1, chunks)
    rate = chunks / len(seconds)

    print(f"sent          {sent['sets']} frame sets in {len(seconds)} s, {options.rate:g} a second wanted")
    print(f"published     {chunks} chunks, {rate:.2f} a second; received elsewhere {sent['chunks']}")
    print(f"dropped       {', '.join(f'{count} {name}' for name, count in drops.items()) or 'none'}")
    print(f"late          {missed} of {chunks} ({100 * share:.3f} %): "
          f"{', '.join(f'{count} by {name}' for name, count in misses.items()) or 'none'}")
    for name in ("observation_to_chunk", "perceive", "act", "overhead", "cycle_jitter"):
        found = report["latencies"][name]
        print(f"{name:<22} p50 {found['p50_ms']:7.2f}  p99 {found['p99_ms']:7.2f}  "
              f"p99.9 {found['p999_ms']:7.2f}  max {found['max_ms']:7.2f} ms")
    print(f"memory        {rss[0] / 1024:.1f} MB settled, at most {max(rss) / 1024:.1f}, at the end "
          f"{rss[-1] / 1024:.1f}")
    print(f"page faults   {faults} of the control thread since it settled")
    print(f"cores         node {mean(seconds, 'node_cores'):.2f}, source {mean(seconds, 'source_cores'):.2f}")
    print(f"noise         others {mean(seconds, 'others_cores'):.2f} cores (at most "
          f"{max(sample['others_cores'] for sample in seconds):.2f}), stolen {mean(seconds, 'stolen_cores'):.2f}; an "
          f"idle thread is woken late by {late['p50_ms']:.2f} (p50), {late['p99_ms']:.2f} (p99), "
          f"{late['max_ms']:.2f} ms (max)")
    wrong = []
    if rate < 0.99 * options.rate:
        wrong.append(f"{rate:.2f} chunks a second")
    if share >= WANTED_MISSES:
        wrong.append(f"{100 * share:.3f} % late")
    if growth_kb > WANTED_GROWTH_KB:
        wrong.append(f"memory grew by {growth_kb / 1024:.1f} MB")
    if faults:
        wrong.append(f"{faults} page faults in the cycle")
    print("verdict: " + ("missed: " + ", ".join(wrong) if wrong else
                         f"kept: {options.rate:g} a second, late {100 * share:.3f} %, memory flat"))
    if options.json:
        options.json.write_text(json.dumps({"machine": platform.platform(), "report": report, "source": sent,
                                            "noise": late, "seconds": seconds}, indent=1) + "\n")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
