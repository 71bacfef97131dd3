"""Whether the doubles beside this file fit the ttnn that is installed: one operation through a mock card, as a trace.

Run by `cargo xtask tenstorrent`, with the environment that it also prints, before it calls its work complete.
"""

import contextlib
import ctypes

import ttnn

card = ttnn.open_device(device_id=0, trace_region_size=1 << 20, num_command_queues=2)
x = ttnn.zeros([32, 32], dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=card)
ttnn.add(x, x)
trace = ttnn.begin_trace_capture(card, cq_id=0)
ttnn.add(x, x)
with contextlib.suppress(RuntimeError):
    ttnn.zeros([32, 32], dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=card)
    raise SystemExit("the host could write while a trace was captured")
ttnn.end_trace_capture(card, trace, cq_id=0)
for _ in range(3):
    written = ttnn.record_event(card, 1)
    ttnn.wait_for_event(0, written)
    ttnn.execute_trace(card, trace, cq_id=0, blocking=False)
ttnn.release_trace(card, trace)
ttnn.close_device(card)

counts = [getattr(ctypes.CDLL(None), f"mock_card_{name}")() for name in ("programs", "captures", "replays", "waits")]
assert counts == [2, 1, 3, 3], counts
