"""What a core's multiplier takes of its factors, pass by pass, as far as that is documented.

A product x w goes through a multiplier of few bits several times. Of x it takes the leading one and six bits more, then the
rest; of w the leading one and four bits more, then the rest; how many of the four combinations are added up is the fidelity.
What it is not fed with is cut off, not rounded; sums are not touched. f32 comes in as 10 bits behind the leading one, of
which the last one of w is not used. Written from the description of the registers SrcA (here w, the second factor) and SrcB
(x, the first) and their "fidelity phases" in the tt-isa-documentation (WormholeB0, SrcASrcB.md) and from the matrix engine's
report in tt-metal (tech_reports/matrix_engine), which says that Blackhole has the same.

Imported by accuracy.py. By itself it checks what follows from that; tests/tenstorrent_mock.rs runs it.
"""

import numpy

# Bits behind the leading one: of the first pass, and of all passes.
X_BITS, W_BITS = (6, 10), (4, 9)


def cut(values, bits):
    """f32 values with so many bits behind the leading one."""
    return (values.view(numpy.int32) & numpy.int32(-(1 << (23 - bits)))).view(numpy.float32)


def first(x, fidelity):
    """What the passes take of the first factor; in three passes, of the second part of the depth, the rest of it."""
    high, all_bits = (cut(x, bits) for bits in X_BITS)
    if fidelity == "HiFi3":
        return numpy.concatenate([high, all_bits - high], -1)
    return all_bits if fidelity == "HiFi4" else high


def second(w, fidelity):
    """The same of the second factor: `first @ second`, computed exactly, is what the passes add up to."""
    high, all_bits = W_BITS
    if fidelity == "HiFi3":
        return numpy.concatenate([cut(w, all_bits), cut(w, high)], -2)
    return cut(w, high if fidelity == "LoFi" else all_bits)


def main():
    random = numpy.random.default_rng(3)
    keep_bfloat16 = numpy.int32(-(1 << 16))
    both = [random.standard_normal(shape).astype(numpy.float32) for shape in ((8, 64), (64, 16))]
    x, w = ((value.view(numpy.int32) & keep_bfloat16).view(numpy.float32) for value in both)
    errors = {}
    for fidelity in ("LoFi", "HiFi2", "HiFi3", "HiFi4"):
        a, b = first(x, fidelity), second(w, fidelity)
        errors[fidelity] = abs(a.astype(float) @ b.astype(float) - x.astype(float) @ w.astype(float)).max()
    # bfloat16 has seven bits: four passes are exact, and each one fewer is worse.
    assert errors["HiFi4"] == 0 < errors["HiFi3"] < errors["HiFi2"] < errors["LoFi"], errors
    # What a residual needs: one as w leaves all of x's bits in three passes, and not in two.
    one = numpy.eye(64, dtype=numpy.float32)
    assert (first(x, "HiFi3") @ second(one, "HiFi3") == x).all()
    assert not (first(x, "HiFi2") @ second(one, "HiFi2") == x).all()
    # Seven ones behind the leading one.
    full = numpy.float32([[2 - 2**-7]])
    assert (float(first(full, "LoFi")[0, 0]), float(second(full, "LoFi")[0, 0])) == (2 - 2**-6, 2 - 2**-4)
    print("four passes are exact for bfloat16; errors of fewer:", errors)


if __name__ == "__main__":
    main()
