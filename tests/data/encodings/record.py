"""Records what OpenCV makes of images in the encodings of sensor_msgs, as test data for tests/image_encodings.rs.

The conversions are those of cv_bridge: BT.601 for YUV, bilinear for Bayer mosaics, 255/65535 for 16 bits. OpenCV has none for
NV24; its pixels are given to the one for UYVY, two equal ones at a time. Needs opencv-python-headless 5.0, numpy, safetensors:

    python record.py
"""

from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import save_file

WIDTH, HEIGHT = 38, 22
RANDOM = np.random.default_rng(7)
# By the colours of the first two rows; OpenCV names a mosaic by its second row.
BAYER = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
}


def noise(*shape: int, bits: int = 8) -> np.ndarray:
    return RANDOM.integers(0, 1 << bits, shape, dtype=np.uint8 if bits == 8 else np.uint16)


def narrow(wide: np.ndarray) -> np.ndarray:
    return cv2.multiply(wide, 255 / 65535, dtype=cv2.CV_8U).reshape(wide.shape)


def record(tensors: dict, name: str, data: np.ndarray, rgb: np.ndarray) -> None:
    tensors[f"{name}.data"] = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
    tensors[f"{name}.rgb"] = np.ascontiguousarray(rgb)


def main() -> None:
    tensors: dict[str, np.ndarray] = {}
    pairs = noise(HEIGHT, WIDTH, 2)
    for name, code in (("uyvy", cv2.COLOR_YUV2RGB_UYVY), ("yuyv", cv2.COLOR_YUV2RGB_YUY2)):
        record(tensors, name, pairs, cv2.cvtColor(pairs, code))
    planes = noise(HEIGHT * 3 // 2, WIDTH)
    for name, code in (("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)):
        record(tensors, name, planes, cv2.cvtColor(planes, code))
    y, uv = noise(HEIGHT, WIDTH), noise(HEIGHT, WIDTH, 2)
    doubled = np.stack([uv[..., 0], y, uv[..., 1], y], axis=-1).reshape(HEIGHT, 2 * WIDTH, 2)
    record(tensors, "nv24", np.concatenate([y.reshape(-1), uv.reshape(-1)]), cv2.cvtColor(doubled, cv2.COLOR_YUV2RGB_UYVY)[:, ::2])
    for letters, code in BAYER.items():
        mosaic = noise(HEIGHT, WIDTH)
        record(tensors, f"bayer_{letters}8", mosaic, cv2.cvtColor(mosaic, code))
        mosaic = noise(HEIGHT, WIDTH, bits=16)
        record(tensors, f"bayer_{letters}16", mosaic, narrow(cv2.cvtColor(mosaic, code)))
    for name, channels, order in (("rgb16", 3, [0, 1, 2]), ("bgr16", 3, [2, 1, 0]), ("rgba16", 4, [0, 1, 2]), ("bgra16", 4, [2, 1, 0]), ("mono16", 1, [0, 0, 0])):
        wide = noise(HEIGHT, WIDTH, channels, bits=16)
        record(tensors, name, wide, narrow(wide)[..., order])
        record(tensors, f"{name}.big_endian", wide.byteswap(), narrow(wide)[..., order])
    grey = noise(HEIGHT, WIDTH)
    record(tensors, "8UC1", grey, np.stack([grey] * 3, axis=-1))
    save_file(tensors, Path(__file__).resolve().parent / "encodings.safetensors")


main()
