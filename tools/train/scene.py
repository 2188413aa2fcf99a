"""Draws the pictures: shapes and words on plain, graded, noisy and cluttered backgrounds.

All lengths of a scene are in units of u = sqrt(width * height), so that an object has the same size on the overview
slice whatever the size of the picture. Everything is drawn from a `random.Random`, so a scene is a function of its seed.
"""

import functools
import importlib
import io
import math
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SHAPES = ["circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring"]
COLOURS = {
    "red": (214, 34, 38),
    "orange": (245, 138, 18),
    "yellow": (245, 226, 40),
    "green": (36, 150, 56),
    "blue": (34, 76, 214),
    "purple": (128, 40, 168),
    "pink": (250, 150, 196),
    "brown": (124, 72, 30),
    "black": (18, 18, 20),
    "white": (248, 248, 248),
}
SIZES = {"small": (0.14, 0.165), "medium": (0.21, 0.24), "big": (0.31, 0.36)}
CELLS = ["top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right"]

# Packages on PyPI that carry one family each, under the Apache License 2.0 or the SIL Open Font License 1.1, and the
# faces of each that are used.
FONTS = {
    "font_roboto": ["Roboto", "RobotoBold", "RobotoItalic", "RobotoLight"],
    "font_source_sans_pro": ["SourceSansPro", "SourceSansProBold", "SourceSansProIt"],
    "font_source_serif_pro": ["SourceSerifPro", "SourceSerifProBold", "SourceSerifProIt"],
    "font_hanken_grotesk": ["HankenGroteskMedium", "HankenGroteskBold"],
    "font_caladea": ["Caladea", "CaladeaBold", "CaladeaItalic"],
    "font_fredoka_one": ["FredokaOne"],
}


@functools.cache
def font_files():
    """Paths of all faces, in a fixed order."""
    return [getattr(importlib.import_module(package), face) for package, faces in FONTS.items() for face in faces]


@functools.lru_cache(256)
def font(face, size):
    return ImageFont.truetype(font_files()[face], size)


@dataclass
class Thing:
    """A shape: its kind, colour and size by name, its cell of the 3 x 3 grid, its centre and radius in pixels."""

    shape: str
    colour: str
    size: str
    cell: int
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0
    turn: float = 0.0
    tint: tuple = (0, 0, 0)

    @property
    def name(self):
        return f"{self.colour} {self.shape}"


@dataclass
class Label:
    """A written word: its text, for each character the box it was drawn in, and how it was drawn."""

    text: str
    boxes: list = field(default_factory=list)
    letters: ImageFont.FreeTypeFont | None = None
    origin: tuple = (0.0, 0.0)


@dataclass
class Picture:
    """Pixels as a reader of the file sees them, the file's bytes where it is a JPEG, and what was drawn."""

    image: Image.Image
    jpeg: bytes | None
    things: list
    labels: list


def outline(shape):
    """Corners of a shape inside the unit circle, y downwards."""
    ring = lambda n, start, r=1.0: [
        (r * math.cos(start + i * math.tau / n), r * math.sin(start + i * math.tau / n)) for i in range(n)
    ]
    up = -math.pi / 2
    if shape == "square":
        return ring(4, math.pi / 4)
    if shape == "diamond":
        return [(0.72 * x, y) for x, y in ring(4, 0)]
    if shape == "triangle":
        return ring(3, up)
    if shape == "star":
        return [p for pair in zip(ring(5, up), ring(5, up + math.pi / 5, 0.42)) for p in pair]
    if shape == "cross":
        a = 0.32
        quarter = [(a, -1), (a, -a), (1, -a)]
        turned = lambda p, k: p if k == 0 else turned((-p[1], p[0]), k - 1)
        return [turned(p, k) for k in range(4) for p in quarter]
    if shape == "heart":
        points = []
        for i in range(40):
            t = i * math.tau / 40
            x = 16 * math.sin(t) ** 3
            y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
            points.append((x / 17, -y / 17))
        return points
    return ring(48, 0)


OUTLINES = {shape: outline(shape) for shape in SHAPES}


def placed(thing, radius):
    """Corners of the thing with this radius, in the picture."""
    c, s = math.cos(thing.turn), math.sin(thing.turn)
    return [(thing.x + radius * (c * x - s * y), thing.y + radius * (s * x + c * y)) for x, y in OUTLINES[thing.shape]]


def draw_thing(image, thing):
    """Draws with smooth edges: a mask of four times the size, or twice for large shapes, made smaller."""
    fine = 4 if thing.radius < 40 else 2
    r = thing.radius
    left, top = math.floor(thing.x - r) - 1, math.floor(thing.y - r) - 1
    side = math.ceil(2 * r) + 3
    mask = Image.new("L", (side * fine, side * fine))
    draw = ImageDraw.Draw(mask)
    corners = lambda radius: [(fine * (x - left), fine * (y - top)) for x, y in placed(thing, radius)]
    draw.polygon(corners(r), fill=255)
    if thing.shape == "ring":
        draw.polygon(corners(0.55 * r), fill=0)
    image.paste(thing.tint, (left, top), mask.reduce(fine))


def far_from(rng, others, least):
    """A colour at least `least` from all of `others` (Euclidean distance of RGB), or the farthest of forty tries."""
    best, distance = (128, 128, 128), -1.0
    for _ in range(40):
        colour = tuple(rng.randrange(256) for _ in range(3))
        near = min((math.dist(colour, other) for other in others), default=999.0)
        if near > distance:
            best, distance = colour, near
        if near >= least:
            return colour
    return best


def shifted(rng, colour, amount):
    return tuple(max(0, min(255, v + rng.randint(-amount, amount))) for v in colour)


def mixed(a, b, share):
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b))


def background(rng, width, height, colour):
    """A background around one colour; its marks stay close to it, so that they are not taken for objects."""
    kind = rng.choices(["plain", "graded", "noisy", "cluttered", "striped"], [30, 25, 20, 18, 7])[0]
    if kind == "graded":
        other = shifted(rng, colour, 45)
        ramp = Image.linear_gradient("L") if rng.random() < 0.7 else Image.radial_gradient("L")
        ramp = ramp.rotate(rng.choice([0, 90, 180, 270])).resize((width, height), Image.Resampling.BILINEAR)
        return Image.composite(
            Image.new("RGB", (width, height), other), Image.new("RGB", (width, height), colour), ramp
        )
    image = Image.new("RGB", (width, height), colour)
    if kind == "noisy":
        numbers = np.random.default_rng(rng.getrandbits(32))
        coarse = rng.choice([1, 1, 2, 4])
        shape = (-(-height // coarse), -(-width // coarse), rng.choice([1, 3]))
        strength = rng.randint(6, 40)
        noise = numbers.integers(-strength, strength + 1, shape, np.int16).repeat(coarse, 0).repeat(coarse, 1)
        image = Image.fromarray(np.clip(noise[:height, :width] + np.int16(colour), 0, 255).astype(np.uint8))
    elif kind == "striped":
        draw, step = ImageDraw.Draw(image), rng.uniform(0.03, 0.12) * math.sqrt(width * height)
        stripe, slope = shifted(rng, colour, 26), rng.uniform(-0.6, 0.6) * height
        x = -abs(slope)
        while x < width + abs(slope):
            draw.line([(x, 0), (x + slope, height)], fill=stripe, width=max(1, round(step / 2)))
            x += step
    elif kind == "cluttered":
        draw, unit = ImageDraw.Draw(image), math.sqrt(width * height)
        ink = far_from(rng, [colour], 150)
        for _ in range(rng.randint(5, 30)):
            fill = mixed(colour, ink, rng.uniform(0.1, 0.28))
            x, y, reach = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.02, 0.2) * unit
            if rng.random() < 0.6:
                angle = rng.uniform(0, math.tau)
                end = (x + reach * math.cos(angle), y + reach * math.sin(angle))
                draw.line([(x, y), end], fill=fill, width=max(1, round(unit / 150)))
            else:
                r = 0.012 * unit
                draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    return image


def picture_size(rng, sizes, spread=0.47):
    """Width and height between 100 and 1000, with the mean side drawn from the classes `sizes` weighs.

    `sizes` are three weights: pictures of one slice, of a few, and of many. `spread` bounds |ln(width / height)|.
    """
    low, high = rng.choices([(104, 140), (140, 400), (400, 1000)], sizes)[0]
    unit = math.exp(rng.uniform(math.log(low), math.log(high)))
    ratio = math.exp(rng.uniform(-spread, spread) / 2)
    clip = lambda side: max(100, min(1000, round(side)))
    return clip(unit * ratio), clip(unit / ratio)


def finish(rng, image, things, labels, lossless=False):
    """Half of the pictures go through JPEG."""
    jpeg = None
    if not lossless and rng.random() < 0.5:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=rng.randint(45, 95))
        jpeg = out.getvalue()
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    return Picture(image, jpeg, things, labels)


def settle(rng, things, width, height):
    """Gives things without a place one inside their cells, clear of each other, and the exact tints; false if they don't fit."""
    unit = math.sqrt(width * height)
    for index, thing in enumerate(things):
        low, high = SIZES[thing.size]
        thing.radius = rng.uniform(low, high) * unit / 2
        thing.turn = rng.uniform(-0.2, 0.2)
        thing.tint = shifted(rng, COLOURS[thing.colour], 14)
        for _ in range(30):
            row, column = divmod(thing.cell, 3)
            x = (column + 0.5 + rng.uniform(-0.3, 0.3)) * width / 3
            y = (row + 0.5 + rng.uniform(-0.3, 0.3)) * height / 3
            edge = thing.radius * 1.04 + 1
            thing.x = min(max(x, edge), width - edge)
            thing.y = min(max(y, edge), height - edge)
            apart = lambda other: (
                math.dist((thing.x, thing.y), (other.x, other.y)) > thing.radius + other.radius + 0.02 * unit
            )
            if all(apart(other) for other in things[:index]):
                break
        else:
            return False
    return True


def ground(rng, things, extra=()):
    """A background colour on which all things and the colours `extra` show."""
    return far_from(rng, [COLOURS[thing.colour] for thing in things] + list(extra), 125)


def luminance(colour):
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def ink_on(rng, colour):
    """A colour that can be read on `colour`: clearly lighter or darker."""
    while True:
        ink = tuple(rng.randrange(256) for _ in range(3))
        if abs(luminance(ink) - luminance(colour)) >= 85:
            return ink


def draw_scene(rng, width, height, things, colour=None, lossless=False):
    image = background(rng, width, height, colour or ground(rng, things))
    for thing in things:
        draw_thing(image, thing)
    return finish(rng, image, things, [], lossless)


def write(rng, image, text, box, ink, face=None):
    """Writes one line as large as fits into `box` (left, top, width, height), anywhere in it. Gives the Label."""
    face = rng.randrange(len(font_files())) if face is None else face
    left, top, width, height = box
    probe = font(face, 100).getbbox(text)
    size = max(6, int(100 * min(width / (probe[2] - probe[0]), height / (probe[3] - probe[1]))))
    letters = font(face, size)
    x0, y0, x1, y1 = letters.getbbox(text)
    x = left + rng.uniform(0, max(0.0, width - (x1 - x0))) - x0
    y = top + rng.uniform(0, max(0.0, height - (y1 - y0))) - y0
    ImageDraw.Draw(image).text((x, y), text, fill=ink, font=letters)
    ends = [letters.getlength(text[: i + 1]) for i in range(len(text))]
    boxes = [(x + a, y + y0, x + b, y + y1) for a, b in zip([0.0, *ends], ends)]
    return Label(text, boxes, letters, (x, y))


def shown(picture):
    """What stands out from the background, as a picture of one channel: the objects and the text."""
    mask = Image.new("L", picture.image.size)
    draw = ImageDraw.Draw(mask)
    for thing in picture.things:
        draw.polygon(placed(thing, thing.radius), fill=255)
        if thing.shape == "ring":
            draw.polygon(placed(thing, 0.55 * thing.radius), fill=0)
    for label in picture.labels:
        draw.text(label.origin, label.text, fill=255, font=label.letters)
    return mask
