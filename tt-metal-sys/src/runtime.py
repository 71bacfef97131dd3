# The Python side of tt-metal-sys: one function per method of `Runtime`, which calls nothing else.
#
# Tensors, traces and events stay here; Rust knows them by number. What Rust calls in every control cycle (write,
# replay, record_event, wait_for_event, wait_until, read) does no more than it must. Everything else answers in JSON, or in numbers.

import contextlib
import functools
import gc
import importlib.util
import itertools
import json
import os
import signal
import sys
import types

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Importing `signal` took Ctrl-C from a program that had no handler for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

if "LOGURU_LEVEL" not in os.environ:
    # ttnn reports its whole configuration when it is imported.
    from loguru import logger

    logger.remove()
    logger.add(sys.stderr, level="ERROR")

import ttnn

# A collection, should one ever be due in a cycle, need not look through all of ttnn.
gc.freeze()

capsule = None  # set by begin(): makes the DLPack capsule of host memory at an address
device = None
graph_capture = False


class Table(dict):
    def __init__(self, kind, content=()):
        super().__init__(content)
        self.kind = kind

    def __missing__(self, key):
        raise RuntimeError(f"there is no {self.kind} {key!r}")

    def keep(self, thing):
        number = next(numbers)
        self[number] = thing
        return number


numbers = itertools.count(1)
tensors = Table("tensor")
captures = Table("capture")  # (queue, trace)
traces = Table("trace")
events = Table("event")
EVENTS_KEPT = 1024

DTYPES = Table(
    "data type", {name: getattr(ttnn, name) for name in ("bfloat16", "float32", "uint32", "int32", "bfloat8_b")}
)
LAYOUTS = Table("layout", {"tile": ttnn.TILE_LAYOUT, "row_major": ttnn.ROW_MAJOR_LAYOUT})
MEMORIES = Table("memory", {"dram": ttnn.DRAM_MEMORY_CONFIG, "l1": ttnn.L1_MEMORY_CONFIG})
BUFFERS = {"dram": ttnn.BufferType.DRAM, "l1": ttnn.BufferType.L1, "trace": ttnn.BufferType.TRACE}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LAYOUT_NAMES = {layout: name for name, layout in LAYOUTS.items()}
BUFFER_NAMES = {buffer: name for name, buffer in BUFFERS.items()}


class Host:
    """Numbers in host memory, as ttnn takes them."""

    __slots__ = ("address",)

    def __init__(self, address):
        self.address = address

    def __dlpack__(self, **_):
        return capsule(self.address)

    def __dlpack_device__(self):
        return (1, 0)


# The session


def begin(make_capsule, number, queues, trace_bytes, l1_small_bytes):
    global capsule, device
    capsule = make_capsule
    device = ttnn.open_device(
        device_id=number, num_command_queues=queues, trace_region_size=trace_bytes, l1_small_size=l1_small_bytes
    )


def close():
    global device
    abandon_captures()
    closing, device = device, None
    try:
        for trace in traces.values():
            ttnn.release_trace(closing, trace)
    finally:
        for table in (traces, events, tensors):
            table.clear()
        ttnn.close_device(closing)


def describe():
    dram, l1 = (ttnn.get_memory_view(device, BUFFERS[name]) for name in ("dram", "l1"))
    grid = device.compute_with_storage_grid_size()
    return json.dumps(
        {
            "architecture": device.arch().name.lower(),
            "grid": [grid.x, grid.y],
            "dram_bytes": dram.num_banks * dram.total_bytes_per_bank,
            "l1_bytes_per_core": l1.total_bytes_per_bank,
            "mock": bool(os.environ.get("TT_METAL_MOCK_CLUSTER_DESC_PATH")),
        }
    )


def synchronize():
    ttnn.synchronize_device(device)


def memory(name):
    view = ttnn.get_memory_view(device, BUFFERS[name])
    return json.dumps(
        {
            "banks": view.num_banks,
            "total_per_bank": view.total_bytes_per_bank,
            "allocated_per_bank": view.total_bytes_allocated_per_bank,
            "free_per_bank": view.total_bytes_free_per_bank,
            "largest_free_per_bank": view.largest_contiguous_bytes_free_per_bank,
        }
    )


def program_cache_entries():
    return device.num_program_cache_entries()


# Tensors


def upload(address, dtype, layout, memory):
    place = MEMORIES[memory]
    if dtype != "bfloat8_b":
        return tensors.keep(ttnn.to_device(ttnn.Tensor(Host(address), layout=LAYOUTS[layout]), device, place))
    rows = ttnn.to_device(ttnn.Tensor(Host(address)), device, ttnn.DRAM_MEMORY_CONFIG)
    tiles = ttnn.to_layout(rows, ttnn.TILE_LAYOUT, memory_config=ttnn.DRAM_MEMORY_CONFIG)
    ttnn.deallocate(rows)
    result = ttnn.typecast(tiles, ttnn.bfloat8_b, memory_config=place)
    ttnn.deallocate(tiles)
    return tensors.keep(result)


def allocate(shape, dtype, layout, memory):
    shape = ttnn.Shape(json.loads(shape))
    return tensors.keep(
        ttnn.allocate_tensor_on_device(shape, DTYPES[dtype], LAYOUTS[layout], device, MEMORIES[memory])
    )


def write(number, address, queue):
    tensor = tensors[number]
    ttnn.copy_host_to_device_tensor(ttnn.Tensor(Host(address), layout=tensor.layout), tensor, cq_id=queue)


def read(number, destination, queue):
    values = tensors[number].cpu(blocking=True, cq_id=queue).to_numpy()
    destination[:] = memoryview(values).cast("B")


def free(number):
    tensor = tensors[number]
    del tensors[number]
    # Without force: a view of another tensor leaves that tensor its memory.
    ttnn.deallocate(tensor, force=False)


def spec_of(number):
    tensor = tensors[number]
    return json.dumps(
        {
            "shape": list(tensor.shape),
            "dtype": DTYPE_NAMES.get(tensor.dtype, str(tensor.dtype)),
            "layout": LAYOUT_NAMES.get(tensor.layout, str(tensor.layout)),
            "memory": BUFFER_NAMES.get(tensor.memory_config().buffer_type, str(tensor.memory_config())),
            "address": tensor.buffer_address(),
        }
    )


# Operations


@functools.cache
def operation(name):
    package, *path = name.split(".")
    if package != "ttnn":
        raise RuntimeError(f"operations begin with 'ttnn.', not {name!r}")
    return functools.reduce(getattr, path, ttnn)


def call(name, arguments):
    arguments = json.loads(arguments)
    operands = [value(operand) for operand in arguments.get("operands", ())]
    attributes = {key: value(attribute) for key, attribute in arguments.get("attributes", {}).items()}
    result = operation(name)(*operands, **attributes)
    results = result if isinstance(result, (tuple, list)) else (result,)
    for tensor in results:
        if not isinstance(tensor, (ttnn.Tensor, types.NoneType)):
            raise RuntimeError(f"{name} returned {tensor!r}, which is no tensor")
    return tuple(tensors.keep(tensor) for tensor in results if tensor is not None)


def value(given):
    kind = type(given)
    if kind is dict:
        if len(given) != 1:
            raise RuntimeError(f"one tag is expected, not {given}")
        [(tag, content)] = given.items()
        return TAGS[tag](content)
    if kind is list:
        return [value(item) for item in given]
    return given


def coordinate(content):
    return ttnn.CoreCoord(content[0], content[1])


def activation(name):
    return None if name is None else ttnn.UnaryWithParam(getattr(ttnn.UnaryOpType, name))


def compute(content):
    return ttnn.init_device_compute_kernel_config(
        device.arch(),
        math_fidelity=getattr(ttnn.MathFidelity, content["fidelity"]),
        math_approx_mode=content["approximate"],
        fp32_dest_acc_en=content["fp32_accumulate"],
        packer_l1_acc=content["l1_accumulate"],
    )


MATMUL_NAMES = {
    "grid": "compute_with_storage_grid_size",
    "per_core_m": "per_core_M",
    "per_core_n": "per_core_N",
    "activation": "fused_activation",
}
MATMUL_VALUES = {"grid": coordinate, "activation": activation}


def matmul(config, content):
    return config(
        **{
            MATMUL_NAMES.get(name, name): MATMUL_VALUES.get(name, lambda same: same)(setting)
            for name, setting in content.items()
        }
    )


MINIMAL_NAMES = {"grid": "compute_with_storage_grid_size", "m_block": "M_block_size", "k_block": "K_block_size", "n_block": "N_block_size"}


def matmul_minimal(content):
    return ttnn.MinimalMatmulConfig(
        **{
            MINIMAL_NAMES.get(name, name): coordinate(setting) if name == "grid" else setting
            for name, setting in content.items()
        }
    )


def shards(layout, content):
    across, down = content["grid"]
    last = ttnn.CoreCoord(across - 1, down - 1)
    cores = ttnn.CoreRangeSet({ttnn.CoreRange(ttnn.CoreCoord(0, 0), last)})
    orientation = ttnn.ShardOrientation.COL_MAJOR if content["transposed"] else ttnn.ShardOrientation.ROW_MAJOR
    spec = ttnn.ShardSpec(cores, [content["rows"], content["width"]], orientation)
    return ttnn.MemoryConfig(layout, ttnn.BufferType.L1, spec)


def norm(content):
    rows, columns = (content[name] // ttnn.TILE_SIZE for name in ("rows", "width"))
    return ttnn.LayerNormShardedMultiCoreProgramConfig(
        compute_with_storage_grid_size=content["grid"],
        subblock_w=next(width for width in range(4, 0, -1) if columns % width == 0),
        block_h=rows,
        block_w=columns,
        inplace=False,
    )


def sdpa(content):
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=coordinate(content["grid"]),
        q_chunk_size=content["q_chunk"],
        k_chunk_size=content["k_chunk"],
        exp_approx_mode=content["approximate"],
    )


TAGS = Table(
    "tag",
    {
        "tensor": tensors.__getitem__,
        "dtype": DTYPES.__getitem__,
        "layout": LAYOUTS.__getitem__,
        "memory": MEMORIES.__getitem__,
        "grid": lambda content: ttnn.CoreGrid(x=content[0], y=content[1]),
        "coord": coordinate,
        "shape": ttnn.Shape,
        "unary": activation,
        "compute": compute,
        "matmul_reuse": functools.partial(matmul, ttnn.MatmulMultiCoreReuseProgramConfig),
        "matmul_1d": functools.partial(matmul, ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig),
        "matmul_2d": functools.partial(matmul, ttnn.MatmulMultiCoreReuseMultiCastProgramConfig),
        "matmul_minimal": matmul_minimal,
        "columns": functools.partial(shards, ttnn.TensorMemoryLayout.WIDTH_SHARDED),
        "blocks": functools.partial(shards, ttnn.TensorMemoryLayout.BLOCK_SHARDED),
        "norm": norm,
        "sdpa": sdpa,
    },
)


# Traces and events


def begin_trace(queue):
    return captures.keep((queue, ttnn.begin_trace_capture(device, cq_id=queue)))


def end_trace(number):
    queue, trace = captures[number]
    del captures[number]
    try:
        ttnn.end_trace_capture(device, trace, cq_id=queue)
    except BaseException:
        # A trace that does not fit its region has ended all the same.
        ttnn.release_trace(device, trace)
        raise
    return traces.keep(trace)


def replay(number, queue, blocking):
    ttnn.execute_trace(device, traces[number], cq_id=queue, blocking=blocking)


def release(number):
    trace = traces[number]
    del traces[number]
    ttnn.release_trace(device, trace)


def record_event(queue):
    event = events.keep(ttnn.record_event(device, queue))
    if len(events) > EVENTS_KEPT:
        del events[next(iter(events))]
    return event


def wait_for_event(queue, number):
    ttnn.wait_for_event(queue, events[number])


def wait_until(number):
    ttnn.event_synchronize(events[number])


# Graph captures


def begin_graph_capture():
    global graph_capture
    if "torch" not in sys.modules and not importlib.util.find_spec("torch"):
        # ttnn looks for tensors of torch among the arguments of what it captures.
        torch = types.ModuleType("torch")
        torch.Tensor = type("Tensor", (), {})
        sys.modules["torch"] = torch
    ttnn.graph.begin_graph_capture(ttnn.graph.RunMode.NORMAL)
    graph_capture = True


def end_graph_capture():
    global graph_capture
    if not graph_capture:
        raise RuntimeError("no graph is being captured")
    graph_capture = False
    return json.dumps(ttnn.graph.end_graph_capture())


def peak_l1(graph):
    return ttnn.graph.extract_peak_L1_memory_usage(json.loads(graph))


def abandon_captures():
    """Ends what is being captured, whatever state it is in: the process would crash at its end otherwise."""
    global graph_capture
    while captures:
        _, (queue, trace) = captures.popitem()
        with contextlib.suppress(Exception):
            ttnn.end_trace_capture(device, trace, cq_id=queue)
        with contextlib.suppress(Exception):
            ttnn.release_trace(device, trace)
    if graph_capture:
        graph_capture = False
        ttnn.graph.end_graph_capture()
