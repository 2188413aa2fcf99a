"""The published rules for slices: how a picture becomes an overview and tiles, with Pillow's bicubic resize.

Arithmetic is Python's own on purpose: the rules are defined by it (`round` goes to the even side of a half).
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from config import Config

CONFIG = Config()
PATCH, SCALE, MOST = CONFIG.patch_size, CONFIG.image_size, CONFIG.max_slice_nums


@dataclass(frozen=True)
class Plan:
    """Sizes are (width, height); without tiles `columns` and `rows` are 0."""

    overview: tuple
    columns: int = 0
    rows: int = 0
    tile: tuple = (0, 0)


def divisible(length, divisor):
    return max(round(length / divisor) * divisor, divisor)


def best_size(width, height, upscale):
    if width * height > SCALE * SCALE or upscale:
        ratio = width / height
        height = int(SCALE / math.sqrt(ratio))
        width = int(height * ratio)
    return divisible(width, PATCH), divisible(height, PATCH)


def plan(width, height, most=MOST):
    multiple = min(math.ceil(width * height / (SCALE * SCALE)), most)
    if multiple <= 1:
        return Plan(best_size(width, height, True))
    grids = [
        (a, count // a)
        for count in (multiple - 1, multiple, multiple + 1)
        if 1 < count <= most
        for a in range(1, count + 1)
        if count % a == 0
    ]
    columns, rows = min(grids, key=lambda g: abs(math.log(width / height) - math.log(g[0] / g[1])))
    tile = best_size(divisible(width, columns) / columns, divisible(height, rows) / rows, True)
    return Plan(best_size(width, height, False), columns, rows, tile)


def slices(image, most=MOST):
    """The plan, and the slices in the order of the prompt as arrays of (height, width, 3) bytes."""
    made = plan(*image.size, most)
    out = [np.asarray(image.resize(made.overview, Image.Resampling.BICUBIC))]
    if made.columns:
        w, h = made.tile
        whole = np.asarray(image.resize((w * made.columns, h * made.rows), Image.Resampling.BICUBIC))
        for y in range(made.rows):
            out += [whole[y * h : (y + 1) * h, x * w : (x + 1) * w] for x in range(made.columns)]
    return made, out


def patches(pixels):
    """[rows * columns, 3 * 14 * 14] bytes, each patch in the order channel, y, x."""
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    blocks = pixels.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 4, 1, 3)
    return rows, columns, blocks.reshape(rows * columns, 3 * PATCH * PATCH)
