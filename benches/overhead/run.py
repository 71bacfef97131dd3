#!/usr/bin/env python3
"""Measures what pi0_node costs beside the model, over real DDS, and then what an rclpy node costs that does the same
work: from the last image's arrival to the device's start, and from the device's end to the published chunk.

    .ros/bin/python benches/overhead/run.py --seconds 60

Run from the repository's root after `cargo build --release`, on an otherwise idle machine; README.md beside this file
says what is measured. Any Python that has rclpy and NumPy will do.
"""
import argparse
import json
import platform
import sys

from processes import CAMERAS, HERE, NODE_CHUNKS, PEER_CHUNKS, Bench, add_arguments, run_for

WANTED_P99_MS = 2.0
ROWS = ["transport", "decode", "sync_wait", "write", "device", "readback", "decode_actions", "publish",
        "before_device", "after_device", "overhead", "observation_to_chunk"]
TITLES = {
    "device": "device (perceive + act)",
    "before_device": "last arrival to device start",
    "after_device": "device end to published",
    "overhead": "overhead (all but the device)",
    "observation_to_chunk": "stamp to published",
}
COLUMNS = ["p50", "p99", "max"]


def measure_node(bench, seconds, cameras):
    """Latencies of pi0_node, and what the source saw."""
    checkpoint = bench.random_checkpoint("tiny")
    # One core for the model, so that the other is left for what is measured, and as little of it as there can be.
    node = bench.start_node(checkpoint, cameras, threads=1, denoise_steps=[1])
    source = bench.start_source(cameras, NODE_CHUNKS)
    run_for(seconds, [node, source])
    node.stop()
    source.stop()
    report = bench.latencies()
    latencies = report["latencies"]
    # Of a sum, quantiles are not known; these are sums of quantiles.
    latencies["device"] = {key: latencies["perceive"][key] + latencies["act"][key] for key in latencies["act"]}
    latencies["device"]["count"] = latencies["act"]["count"]
    drops = {name: count for name, count in report["dropped"].items() if count}
    return {"chunks": report["chunks"], "dropped": drops, "latencies": latencies, "source": bench.source_report()}


def measure_peer(bench, seconds, cameras, resize, device_ms):
    """The same of the rclpy node."""
    report = bench.folder / "rclpy_node.json"
    peer = bench.start("rclpy_node", [
        sys.executable, HERE / "rclpy_node.py", "--cameras", cameras, "--resize", resize, "--device-ms", device_ms,
        "--json", report])
    peer.wait_for("rclpy_node is running")
    source = bench.start_source(cameras, PEER_CHUNKS)
    run_for(seconds, [peer, source])
    peer.stop()
    source.stop()
    return json.loads(report.read_text()) | {"source": bench.source_report()}


def print_table(results):
    names = list(results)
    width = 8 * len(COLUMNS)
    print(f"{'milliseconds':<32}" + "".join(f"{name:>{width + 2}}" for name in names))
    print(f"{'':<32}" + "".join("  " + "".join(f"{column:>8}" for column in COLUMNS) for _ in names))
    rows = [(TITLES.get(row, row), lambda result, row=row: result["latencies"].get(row)) for row in ROWS]
    rows.append(("stamp to received elsewhere", lambda result: result["source"]["stamp_to_chunk"]))
    for title, find in rows:
        line = f"{title:<32}"
        for name in names:
            found = find(results[name])
            cells = [f"{found[f'{column}_ms']:8.2f}" if found else f"{'-':>8}" for column in COLUMNS]
            line += "  " + "".join(cells)
        print(line)
    for name in names:
        source, result = results[name]["source"], results[name]
        drops = ", ".join(f"{count} {reason}" for reason, count in result.get("dropped", {}).items())
        print(f"{name}: {source['sets']} frame sets sent, {result['chunks']} chunks published, {source['chunks']} "
              "received" + (f"; dropped: {drops}" if drops else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--seconds", type=int, default=60, help="length of each measurement [60]")
    parser.add_argument("--cameras", type=int, default=3, choices=range(1, len(CAMERAS) + 1), help="cameras [3]")
    options = parser.parse_args()
    try:
        import cv2  # noqa: F401
        resizes = ["numpy", "opencv"]
    except ImportError:
        resizes = ["numpy"]
        print("OpenCV is not installed: the rclpy node resizes with NumPy only")

    with Bench(options) as bench:
        results = {"pi0_node": measure_node(bench, options.seconds, options.cameras)}
        device_ms = results["pi0_node"]["latencies"]["device"]["p50_ms"]
        for resize in resizes:
            results[f"rclpy, {resize}"] = measure_peer(bench, options.seconds, options.cameras, resize, device_ms)
    print_table(results)
    p99_ms = results["pi0_node"]["latencies"]["overhead"]["p99_ms"]
    verdict = "kept" if p99_ms <= WANTED_P99_MS else "missed"
    print(f"overhead of pi0_node: p99 {p99_ms:.2f} ms, at most {WANTED_P99_MS:.0f} ms are wanted: {verdict}")
    for name, result in results.items():
        if name != "pi0_node":
            times = [result["latencies"]["overhead"][f"{column}_ms"]
                     / results["pi0_node"]["latencies"]["overhead"][f"{column}_ms"] for column in COLUMNS[:2]]
            print(f"overhead of {name}: {times[0]:.1f} times as much at p50, {times[1]:.1f} times at p99")
    if options.json:
        options.json.write_text(json.dumps({"machine": platform.platform(), "seconds": options.seconds,
                                            "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
