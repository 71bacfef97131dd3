"""Runs lowered programs op by op through Tenstorrent's own definitions of the operations, in PyTorch: no card, no mock.

usage: golden.py FOLDER f32|card|weights|activations

FOLDER holds programs as `audit --program` writes them (NAME.json) and tensors.safetensors with what the host would
upload: `NAME.7` for tensor 7. Results are written to results.safetensors as `NAME.7`. With `f32` everything is computed
and kept in f32; with `card` every result is rounded to the element type that it has on a card, with `weights` weights, keys and values to
bfloat16 instead of bfloat8_b, with `activations` results to bfloat8_b instead of bfloat16. Programs run in the order
perceive, act; residents are handed over by name. Called by tests/tenstorrent_golden.rs;
accuracy.py takes the definitions from here.
"""

import json
import pathlib
import sys

import torch
import ttnn
from block_float import block_float
from safetensors.torch import load_file, save_file


def round_to(value, dtype, precision, uploaded):
    """What is left of f32 values on a card."""
    if precision == "f32":
        return value
    if precision == "weights" and dtype == "bfloat8_b":
        dtype = "bfloat16"
    if precision == "activations" and dtype == "bfloat16" and not uploaded and value.shape[-1] > 1:
        dtype = "bfloat8_b"
    if not value.is_floating_point():
        return value
    if dtype == "bfloat16":
        return value.to(torch.bfloat16).to(torch.float32)
    if dtype == "bfloat8_b":
        return torch.from_numpy(block_float(value.numpy()))
    return value


def resolve(name):
    found = ttnn
    for part in name.split(".")[1:]:
        found = getattr(found, part)
    return found


def argument(value, tensors):
    """A value of the program as a golden function takes it; what only matters to a card is None."""
    if isinstance(value, list):
        return [argument(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, content), = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "unary":
        return getattr(ttnn.UnaryOpType, content)
    if kind in ("matmul_1d", "matmul_2d"):
        return content["activation"]
    if kind == "dtype":
        return getattr(ttnn, content)
    return None


ACTIVATIONS = {
    None: lambda x: x,
    "RELU": torch.relu,
    "SILU": torch.nn.functional.silu,
    "GELU_TANH": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
}


def linear(golden, operands, bias=None, program_config=None, **_):
    """What follows a product on a card is part of how it is spread over the cores."""
    return ACTIVATIONS[program_config](golden(*operands, bias=bias))


def multiply(golden, operands, input_tensor_a_activations=(), **_):
    for function in input_tensor_a_activations:
        operands[0] = ACTIVATIONS[function.name](operands[0])
    return golden(*operands)


# The library has no definitions of these; what follows is its documentation in PyTorch.


def minimal_matmul_split(operands, chunks, dim, **_):
    return torch.chunk(operands[0] @ operands[1], chunks, dim)


def rotary_embedding_llama(operands, **_):
    """A tile of 32 columns at a time is multiplied with the matrix that exchanges neighbours."""
    x, cosines, sines, exchange = operands
    tiles = x.reshape(*x.shape[:-1], -1, 32) @ exchange.reshape(32, 32)
    return x * cosines + tiles.reshape(x.shape) * sines


def create_heads(operands, num_heads, num_kv_heads, kv_tied, **_):
    sections = num_heads + num_kv_heads * (1 if kv_tied else 2)
    [batch, _, rows, columns] = operands[0].shape
    heads = operands[0].reshape(batch, rows, sections, columns // sections).transpose(1, 2)
    return heads[:, :num_heads], heads[:, num_heads : num_heads + num_kv_heads], heads[:, sections - num_kv_heads :]


def same_tiles(operands, **_):
    """The same memory as another shape: tiles of 32 x 32, row by row."""
    x, shape = operands
    tiles = x.reshape(-1, 32, x.shape[-1] // 32, 32).transpose(1, 2).reshape(-1, 32, 32)
    return tiles.reshape(-1, shape[-1] // 32, 32, 32).transpose(1, 2).reshape(shape)


def taken_by(users, pages):
    """The keys or values of every user, one below the other."""
    return pages[users.long()].squeeze(2).flatten(1, 2)


def paged_attention(operands, page_table_tensor, attn_mask, scale, **_):
    """The library's definition takes masks of one token alone; its kernel has one of [users, 1, heads, keys]."""
    q, *pages = operands
    k, v = (taken_by(users=page_table_tensor, pages=page) for page in pages)
    scores = scale * (q[0] @ k.transpose(1, 2)) + attn_mask.expand(q.shape[1], -1, -1, -1)[:, 0]
    return (torch.softmax(scores, dim=-1) @ v).unsqueeze(0)


OURS = {
    "ttnn.transformer.paged_scaled_dot_product_attention_decode": paged_attention,
    "ttnn.to_memory_config": lambda operands: operands[0],
    "ttnn.experimental.minimal_matmul_split": minimal_matmul_split,
    "ttnn.experimental.rotary_embedding_llama": rotary_embedding_llama,
    "ttnn.experimental.nlp_create_qkv_heads": create_heads,
    "ttnn.experimental.view": same_tiles,
}


def side_by_side(heads):
    return ttnn.get_golden_function(ttnn.transformer.concatenate_heads)(heads).unsqueeze(1)


def attention(golden, operands, attributes):
    attributes.pop("output_concat_heads")
    return side_by_side(golden(*operands, **attributes))


def run(call, tensors):
    name = call["operation"]
    operands = [argument(value, tensors) for value in call["operands"]]
    attributes = {key: argument(value, tensors) for key, value in call["attributes"].items()}
    if name in OURS:
        return OURS[name](operands, **attributes)
    golden = ttnn.get_golden_function(resolve(name))
    if name == "ttnn.linear":
        return linear(golden, operands, **attributes)
    if name == "ttnn.multiply":
        return multiply(golden, operands, **attributes)
    if name == "ttnn.transformer.scaled_dot_product_attention":
        return attention(golden, operands, attributes)
    for only_for_cards in ("memory_config", "core_grid", "program_config", "compute_kernel_config"):
        attributes.pop(only_for_cards, None)
    # Results are rounded in `execute`, one way for all operations.
    attributes.pop("dtype", None)
    if name == "ttnn.typecast" and operands[1] == ttnn.bfloat8_b:
        return operands[0]
    if name == "ttnn.typecast":
        operands[0] = operands[0].to(torch.float32)
    result = golden(*operands, **attributes)
    whole = name == "ttnn.typecast" and operands[1] in (ttnn.uint32, ttnn.int32)
    return result.to(torch.int64) if whole else result


def execute(program, uploaded, residents, precision):
    stored = program["tensors"]
    tensors = {}
    for index, tensor in enumerate(stored):
        if tensor["origin"] == "resident":
            tensors[index] = residents[tensor["from"]]
        elif tensor["origin"] != "call":
            value = uploaded[f"{program['name']}.{index}"].reshape(tensor["shape"])
            tensors[index] = round_to(value, tensor["dtype"], precision, True)
    for call in program["calls"]:
        try:
            results = run(call, tensors)
        except Exception as error:
            raise SystemExit(f"{call['operation']} of {call['node']}: {error!r}") from error
        for index, result in zip(call["results"], results if isinstance(results, tuple) else (results,)):
            expected = stored[index]["shape"]
            if list(result.shape) != expected:
                raise SystemExit(f"{call['operation']} of {call['node']}: {list(result.shape)}, not {expected}")
            result = result.to(torch.float32) if result.is_floating_point() else result
            tensors[index] = round_to(result, stored[index]["dtype"], precision, False)
    residents.update({resident["name"]: tensors[resident["tensor"]] for resident in program["residents"]})
    return {f"{program['name']}.{output['tensor']}": tensors[output["tensor"]] for output in program["outputs"]}


def main():
    folder, precision = pathlib.Path(sys.argv[1]), sys.argv[2]
    uploaded = load_file(folder / "tensors.safetensors")
    residents, results = {}, {}
    for name in ("perceive", "act"):
        program = json.loads((folder / f"{name}.json").read_text())
        results |= execute(program, uploaded, residents, precision)
    save_file({name: value.contiguous().clone() for name, value in results.items()}, folder / "results.safetensors")


if __name__ == "__main__":
    with torch.no_grad():
        main()
