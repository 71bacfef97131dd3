"""bfloat8_b written down, and the library's own quantisation beside it.

Sixteen neighbours in a row share the largest exponent among them; each keeps a sign and seven bits, the leading one among
them, rounded to nearest, ties to even. Imported by golden.py. By itself it compares that with what ttnn makes of host
tensors, which needs neither card nor PyTorch: tests/tenstorrent_mock.rs runs it.
"""

import numpy


def block_float(values):
    """What bfloat8_b leaves of f32 values, whose last axis is that of the rows."""
    width = values.shape[-1]
    padded = numpy.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -width % 16)])
    blocks = padded.reshape(*padded.shape[:-1], -1, 16)
    largest = numpy.abs(blocks).max(-1, keepdims=True)
    exponent = numpy.floor(numpy.log2(numpy.maximum(largest, 2.0**-126)))
    step = numpy.exp2(exponent - 6)
    rounded = numpy.clip(numpy.round(blocks / step), -127, 127) * step
    return rounded.reshape(padded.shape)[..., :width].astype(numpy.float32)


def main():
    import ttnn

    random = numpy.random.default_rng(7)
    shape = (1, 1, 64, 256)
    normal = random.standard_normal(shape)
    cases = {
        "normal": normal,
        "of all sizes": normal * numpy.exp2(random.integers(-30, 30, shape)),
        # Halves of the last bit: where ties go.
        "ties": random.integers(-254, 255, shape) / 2.0,
        "nearly the next power of two": numpy.where(random.random(shape) < 0.1, 1.999, normal * 0.1),
        "zeros": numpy.zeros(shape),
    }
    for name, values in cases.items():
        values = values.astype(numpy.float32)
        tiles = ttnn.Tensor(values, ttnn.float32).to(ttnn.TILE_LAYOUT)
        stored = ttnn.to_dtype(ttnn.to_dtype(tiles, ttnn.bfloat8_b), ttnn.float32)
        found, expected = stored.to(ttnn.ROW_MAJOR_LAYOUT).to_numpy(), block_float(values)
        different = int((found != expected).sum())
        print(f"{name}: {different} of {values.size} differ")
        if different:
            at = tuple(numpy.argwhere(found != expected)[0])
            raise SystemExit(f"{name}: {values[at]} becomes {found[at]}, not {expected[at]}")


if __name__ == "__main__":
    main()
