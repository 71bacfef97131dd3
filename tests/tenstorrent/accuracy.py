"""What element types and fidelity do to every value of a model: lowered programs op by op through Tenstorrent's definitions, in
f32 and rounded in several ways at once.

usage: accuracy.py FOLDER

FOLDER holds perceive.json and act.json, as `audit --programs` writes them, each call with its `component` beside, and each tensor with
whether it `is_large_weight`; `schemes.json`, a list of ways to round; `inputs.safetensors` and `contents/N.safetensors`, what the host would upload, by the tensor's number
in its program. `differences.json` is written: for every way and every output, how far it is from f32.

A way has a name, and by component, by its part ("prefix layers/attention") or for all others under "*":
  exact        true where nothing is rounded
  weights      bfloat16 or bfloat8_b for large weights      activations  the same for what is bfloat16 in the program
  fidelity     what to make of a fidelity: {"HiFi2": "LoFi"}
  exponentials exact or approximate, of attention
What is not named is as the program says.

Rounded are: what is uploaded, every result of a call (to nearest, ties to even), the factors of products (`fidelity`), scores,
numerators and denominators within attention and the three parts of a rotation (bfloat16, as the library's program factories store
them: sdpa_program_factory.cpp, rotary_embedding_llama). Not: the inside of norms, functions that a card approximates, the
order of f32 sums. All ways are computed side by side, a call at a time, so that weights are read and rounded once, and what is the same for two of them is computed once. Called by
tests/tenstorrent_accuracy.rs.
"""

import collections
import json
import math
import pathlib
import sys
import time

import fidelity
import torch
from block_float import block_float
from golden import run, side_by_side, taken_by
from safetensors.torch import load_file

EXACT = "f32"
ROUNDED = ("bfloat16", "bfloat8_b")
PRODUCTS = {"ttnn.linear", "ttnn.experimental.minimal_matmul_split"}


def bfloat16(value):
    return value.to(torch.bfloat16).to(torch.float32)


def rounded(value, dtype):
    if dtype not in ROUNDED or not value.is_floating_point():
        return value
    return torch.from_numpy(block_float(value.numpy())) if dtype == "bfloat8_b" else bfloat16(value)


def first(x, kind):
    """The first factor of a product as `kind` feeds it to the multiplier."""
    return torch.from_numpy(fidelity.first(x.contiguous().numpy(), kind))


def second(w, kind):
    return torch.from_numpy(fidelity.second(w.contiguous().numpy(), kind))


class Way:
    """How one component is rounded; equal ones give equal results."""

    def __init__(self, scheme, component):
        def of(what):
            found = scheme.get(what, {})
            names = (component, component.split("/")[0], "*")
            return next((found[name] for name in names if name in found), None)

        self.exact = scheme["name"] == EXACT or bool(of("exact"))
        self.weights, self.activations = of("weights"), of("activations")
        self.fidelities = of("fidelity") or {}
        self.exponentials = of("exponentials")
        self.key = (self.exact, self.weights, self.activations, tuple(self.fidelities.items()), self.exponentials)

    def uploaded(self, tensor):
        """The type of what the host uploads."""
        if self.exact:
            return EXACT
        return self.weights or tensor["dtype"] if tensor["is_large_weight"] else tensor["dtype"]

    def result(self, tensor):
        if self.exact:
            return EXACT
        if tensor["dtype"] != "bfloat16" or tensor["layout"] != "tile":
            return tensor["dtype"]
        return self.activations or "bfloat16"

    def fidelity(self, call):
        kind = call["attributes"]["compute_kernel_config"]["compute"]["fidelity"]
        return self.fidelities.get(kind, kind)


class Contents:
    """What is uploaded, each tensor read when a call wants it and kept until its last one; in bfloat16 where that is exact."""

    def __init__(self, folder, program):
        self.folder, self.tensors = folder / "contents", program["tensors"]
        self.left = collections.Counter(index for call in program["calls"] for index in set(reads(call)))
        self.files = {int(index): number for index, number in program["contents"].items()}
        self.kept, self.wide = {}, {}

    def get(self, index, dtype):
        if (index, dtype) not in self.wide:
            self.wide[index, dtype] = self.stored(index, dtype).to(torch.float32)
        return self.wide[index, dtype]

    def factor(self, index, dtype, kind):
        """As the second factor of a product. Seven bits are not cut by two or four passes."""
        if dtype != "float32" and kind in ("HiFi2", "HiFi4"):
            return self.get(index, dtype)
        if (index, dtype, kind) not in self.wide:
            self.wide[index, dtype, kind] = second(self.get(index, dtype), kind)
        return self.wide[index, dtype, kind]

    def stored(self, index, dtype):
        if (index, dtype) not in self.kept:
            if dtype == EXACT:
                value = load_file(self.folder / f"{self.files[index]}.safetensors")["value"]
                value = value.reshape(self.tensors[index]["shape"])
            else:
                value = self.stored(index, EXACT)
                if dtype in ROUNDED and (value.dtype, dtype) != (torch.bfloat16, "bfloat16"):
                    value = rounded(value.to(torch.float32), dtype).to(torch.bfloat16)
            self.kept[index, dtype] = value
        return self.kept[index, dtype]

    def done(self, call):
        self.wide.clear()
        for index in set(reads(call)):
            self.left[index] -= 1
            if not self.left[index]:
                for key in [key for key in self.kept if key[0] == index]:
                    del self.kept[key]


def reads(call):
    """Numbers of the tensors that a call reads."""
    def inside(value):
        if isinstance(value, list):
            for item in value:
                yield from inside(item)
        elif isinstance(value, dict) and "tensor" in value:
            yield value["tensor"]

    yield from inside(call["operands"])
    yield from inside(list(call["attributes"].values()))


class Tensors:
    """A program's tensors as one way sees them."""

    def __init__(self, stored, contents, values, number, way):
        self.stored, self.contents, self.values, self.number, self.way = stored, contents, values, number, way

    def __getitem__(self, index):
        if index in self.values:
            return self.values[index][self.number]
        value = self.contents.get(index, self.way.uploaded(self.stored[index]))
        return value.to(torch.int64) if self.stored[index]["dtype"] == "uint32" else value

    def second(self, index, kind):
        if index in self.values:
            return second(self[index], kind)
        return self.contents.factor(index, self.way.uploaded(self.stored[index]), kind)


def product(call, tensors):
    left, right, *rest = call["operands"]
    kind = tensors.way.fidelity(call)
    fed = {"x": first(tensors[left["tensor"]], kind), "w": tensors.second(right["tensor"], kind)}
    call = {**call, "operands": [{"tensor": "x"}, {"tensor": "w"}, *rest]}
    return run(call, {**{index: tensors[index] for index in reads(call) if index not in fed}, **fed})


def approximate_exponential(x):
    """Schraudolph's: the bits of 2^x as a straight line between powers of two (ckernel_sfpu_exp.h, of an argument of zero at most)."""
    line = torch.round(x * (256 / math.log(2)) + 32500.818359375).clamp(0, 32767)
    return (line.to(torch.int32) << 15).view(torch.float32)


def attended(q, k, v, mask, scale, way, call):
    """Scores, numerators and denominators are kept in bfloat16."""
    kind = way.fidelity(call)
    of_program = call["attributes"]["program_config"]["sdpa"]["approximate"]
    approximate = way.exponentials == "approximate" if way.exponentials else of_program
    exponential = approximate_exponential if approximate else torch.exp
    scores = bfloat16(first(q, kind) @ second(k.transpose(-1, -2), kind)) * scale
    if mask is not None:
        scores = bfloat16(scores + mask)
    numerators = bfloat16(exponential(scores - scores.amax(-1, keepdim=True)))
    sums = bfloat16(first(numerators, kind) @ second(v, kind))
    return sums / bfloat16(numerators.sum(-1, keepdim=True))


def attention(call, tensors):
    attributes = call["attributes"]
    q, k, v = (tensors[operand["tensor"]] for operand in call["operands"])
    mask = tensors[attributes["attn_mask"]["tensor"]] if "attn_mask" in attributes else None
    scale, way = attributes["scale"], tensors.way
    if "page_table_tensor" in attributes:
        users = tensors[attributes["page_table_tensor"]["tensor"]]
        k, v = (taken_by(users, pages) for pages in (k, v))
        return attended(q[0], k, v, mask[:, 0], scale, way, call).unsqueeze(0)
    k, v = (value.repeat_interleave(q.shape[1] // value.shape[1], 1) for value in (k, v))
    return side_by_side(attended(q, k, v, mask, scale, way, call))


def rotation(call, tensors):
    x, cosines, sines, exchange = (tensors[operand["tensor"]] for operand in call["operands"])
    tiles = x.reshape(*x.shape[:-1], -1, 32) @ exchange.reshape(32, 32)
    return bfloat16(x * cosines) + bfloat16(bfloat16(tiles.reshape(x.shape)) * sines)


def computed(call, tensors):
    if not tensors.way.exact:
        if call["operation"] in PRODUCTS:
            return product(call, tensors)
        if "attention" in call["operation"]:
            return attention(call, tensors)
        if call["operation"] == "ttnn.experimental.rotary_embedding_llama":
            return rotation(call, tensors)
    return run(call, tensors)


def difference(found, expected):
    """As verify/difference.rs has it."""
    found, expected = found.flatten().double(), expected.flatten().double()
    error = found - expected
    x, y = found - found.mean(), expected - expected.mean()
    spread = float(x.norm() * y.norm())
    return {
        "pcc": float(x @ y) / spread if spread else float(not error.any()),
        "relative_rms": float(error.norm() / expected.norm()) if expected.any() else 0.0,
        "scale": float(found.norm() / expected.norm()) if expected.any() else 1.0,
    }


class Comparison:
    """Every output, as soon as it is there, beside the one in f32, the first of the schemes."""

    def __init__(self, schemes):
        self.schemes = schemes
        self.found = {scheme["name"]: {} for scheme in schemes}

    def add(self, name, values):
        for scheme, value in zip(self.schemes, values):
            self.found[scheme["name"]][name] = difference(value, values[0])

    def output(self, output, values, noise):
        rows, columns = torch.tensor(output["rows"]), torch.tensor(output["columns"])
        values = [value.reshape(-1, value.shape[-1])[rows][:, columns] for value in values]
        self.add(output["name"], values)
        if output["name"] == "actions":
            # What the model has added to the noise that it began with.
            self.add("moved", [value - noise for value in values])


def execute(program, folder, schemes, residents, comparison):
    stored, inputs = program["tensors"], load_file(folder / "inputs.safetensors")
    contents, values = Contents(folder, program), {}
    ways = {}
    cache = {resident["tensor"] for resident in program["residents"]}
    outputs = collections.defaultdict(list)
    for output in program["outputs"]:
        outputs[output["tensor"]].append(output)
    for index, tensor in enumerate(stored):
        if tensor["origin"] == "resident":
            values[index] = residents[tensor["from"]]
        elif tensor["origin"] == "input":
            value = inputs[f"{program['name']}.{index}"].reshape(tensor["shape"])
            values[index] = [rounded(value, EXACT if scheme["name"] == EXACT else tensor["dtype"]) for scheme in schemes]
    start, last = time.monotonic(), 0.0
    for place, call in enumerate(program["calls"]):
        made, results = {}, []
        for number, scheme in enumerate(schemes):
            key = (scheme["name"], call["component"])
            way = ways.setdefault(key, Way(scheme, call["component"]))
            same = (way.key, *(id(values[index][number]) for index in reads(call) if index in values))
            if same not in made:
                result = computed(call, Tensors(stored, contents, values, number, way))
                result = result if isinstance(result, tuple) else (result,)
                result = [value.to(torch.float32) if value.is_floating_point() else value for value in result]
                made[same] = [
                    rounded(value.contiguous(), way.result(stored[index]))
                    for index, value in zip(call["results"], result, strict=True)
                ]
            results.append(made[same])
        for index, of_each in zip(call["results"], zip(*results), strict=True):
            assert list(of_each[0].shape) == stored[index]["shape"], (call["operation"], call["node"], of_each[0].shape)
            values[index] = list(of_each)
            for output in outputs[index]:
                noise = inputs.get("noise")
                comparison.output(output, values[index], noise)
            if outputs[index] and index not in cache:
                del values[index]
        contents.done(call)
        for index in call["last_uses"]:
            values.pop(index, None)
        if time.monotonic() - last > 20:
            last = time.monotonic()
            done = f"{program['name']}: {place} of {len(program['calls'])} calls in {last - start:.0f} s"
            now = [made[0] for made in results]
            far = [f"{difference(value, now[0])['pcc']:.5f}" for value in now if now[0].is_floating_point()]
            print(f"{done}; {call['node']}: {' '.join(far)}", file=sys.stderr, flush=True)
    residents.update({resident["name"]: values[resident["tensor"]] for resident in program["residents"]})


def main():
    folder = pathlib.Path(sys.argv[1])
    schemes = json.loads((folder / "schemes.json").read_text())
    assert schemes[0]["name"] == EXACT
    comparison, residents = Comparison(schemes), {}
    for name in ("perceive", "act"):
        execute(json.loads((folder / f"{name}.json").read_text()), folder, schemes, residents, comparison)
        (folder / "differences.json").write_text(json.dumps(comparison.found))


if __name__ == "__main__":
    with torch.no_grad():
        main()
