"""An image as the model sees it: src/observe/resize.rs in NumPy. Called by demonstrate.py, train.py and reference.py."""

import numpy as np


def resize(image, side):
    """`[height, width, 3]` u8 to the part of `side` x `side` that is not padding, u8: bilinear, corners not aligned, no smoothing.

    The node keeps fractions of a level; rounding them is the price of storing bytes.
    """
    height, width = image.shape[:2]
    ratio = max(height, width) / side
    rows, columns = taps(height, int(height / ratio)), taps(width, int(width / ratio))
    mixed = mix(image.astype(np.float32), rows, axis=0)
    return np.rint(mix(mixed, columns, axis=1)).astype(np.uint8)


def taps(length, resized):
    position = np.maximum(length / resized * (np.arange(resized) + 0.5) - 0.5, 0)
    low = np.minimum(position.astype(int), length - 1)
    return low, np.minimum(low + 1, length - 1), (position - low).astype(np.float32)


def mix(image, taps, axis):
    low, high, weight = taps
    weight = weight[:, None, None] if axis == 0 else weight[:, None]
    return image.take(low, axis) * (1 - weight) + image.take(high, axis) * weight


def pad(images, side):
    """`[.., height, width, 3]` u8 to `[.., 3, side, side]` in [-1, 1], black around; of arrays or tensors."""
    import torch

    images = torch.as_tensor(images)
    height, width = images.shape[-3:-1]
    top, left = (side - height) // 2, (side - width) // 2
    out = torch.full((*images.shape[:-3], 3, side, side), -1.0)
    out[..., top : top + height, left : left + width] = images.movedim(-1, -3).float() * (2 / 255) - 1
    return out
