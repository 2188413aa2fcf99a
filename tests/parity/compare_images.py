#!/usr/bin/env python3
"""Compares resizing, slicing and decoding of pictures with Pillow and with the published rules.

    cargo build --release -p ocelli-image --example image_parity
    python compare_images.py --program target/release/examples/image_parity [--resizes 2000] [--plans 20000]
        [--sliced 200] [--seed 1] [--golden]

resize: random pictures and sizes, bit for bit with Pillow's bicubic. Up to version 12 Pillow resamples along the rows
        first; from 13 on the order depends on the sizes. The first order is had from every version by resizing one
        axis after the other; the second is compared when Pillow is new enough.
plan:   sizes and grids of random sizes, with the rules of the published image processor and of llama.cpp, which are
        restated below on their own (Python floats; numpy float32).
slice:  whole sliced pictures, with Pillow's resize and crop.
decode: files written by Pillow in every mode, bit for bit where the format is lossless; JPEG and lossy WebP are
        reported with the largest and the mean difference.
video:  sampled frames of films made by ffmpeg, with all frames that ffmpeg gives.

--golden prints the hashes that the Rust tests hold. Exit status 1 when anything that must be equal differs.
"""

import argparse
import io
import math
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

import numpy as np
import PIL
from PIL import Image, ImageOps

HORIZONTAL_FIRST, PILLOW_13 = 0, 1
ORDERS = {HORIZONTAL_FIRST: "horizontal first", PILLOW_13: "order of Pillow 13"}
if int(PIL.__version__.split(".")[0]) < 13:
    del ORDERS[PILLOW_13]

REFERENCE, LLAMA_CPP = 0, 1
f32 = np.float32


class Program:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, job, *numbers, data=b""):
        self.process.stdin.write(job + struct.pack(f"<{len(numbers)}I", *numbers) + data)
        self.process.stdin.flush()

    def numbers(self, n):
        return struct.unpack(f"<{n}I", self.read(4 * n))

    def read(self, n):
        data = self.process.stdout.read(n)
        if len(data) != n:
            sys.exit("the program ended early")
        return data

    def picture(self):
        w, h = self.numbers(2)
        return np.frombuffer(self.read(3 * w * h), np.uint8).reshape(h, w, 3)

    def resize(self, pixels, size, order):
        h, w, _ = pixels.shape
        self.ask(b"R", w, h, *size, order, data=pixels.tobytes())
        return self.picture()

    def plan(self, options, w, h):
        self.ask(b"P", *options, w, h)
        return self.numbers(10)

    def slice(self, options, pixels):
        h, w, _ = pixels.shape
        self.ask(b"S", *options, w, h, data=pixels.tobytes())
        return [self.picture() for _ in range(self.numbers(1)[0])]

    def video(self, path, fps, most):
        name = str(path).encode()
        self.ask(b"V", round(fps * 1000), most, len(name), data=name)
        if self.numbers(1)[0] == 0:
            return [(self.numbers(1)[0], self.picture()) for _ in range(self.numbers(1)[0])]
        return self.read(self.numbers(1)[0]).decode()

    def decode(self, data, orientation=False):
        self.ask(b"D", int(orientation), len(data), data=data)
        if self.numbers(1)[0] == 0:
            return self.picture()
        return self.read(self.numbers(1)[0]).decode()


# The published rules, in Python's own arithmetic.


def ensure_divide(length, divisor):
    return max(round(length / divisor) * divisor, divisor)


def find_best_resize(size, scale, patch, allow_upscale):
    width, height = size
    if width * height > scale * scale or allow_upscale:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return ensure_divide(width, patch), ensure_divide(height, patch)


def candidate_grids(multiple, most):
    grids = []
    for count in [multiple - 1, multiple, multiple + 1]:
        if count == 1 or count > most:
            continue
        columns = 1
        while columns <= count:
            if count % columns == 0:
                grids.append((columns, count // columns))
            columns += 1
    return grids


def plan_reference(options, width, height):
    _, most, scale, patch, _ = options
    ratio = width * height / (scale * scale)
    multiple = min(math.ceil(ratio), most)
    if multiple <= 1:
        return (*find_best_resize((width, height), scale, patch, True), 0, 0, 0, 0, 0, 0, 0, 0)
    best, least = (1, 1), float("inf")
    for grid in candidate_grids(multiple, most):
        error = abs(math.log(width / height) - math.log(grid[0] / grid[1]))
        if error < least:
            best, least = grid, error
    columns, rows = best
    overview = find_best_resize((width, height), scale, patch, False)
    cell = (ensure_divide(width, columns) / columns, ensure_divide(height, rows) / rows)
    tile = find_best_resize(cell, scale, patch, True)
    return (*overview, columns, rows, *tile, tile[0] * columns, tile[1] * rows, 0, 0)


# llama.cpp's, in float32 with halves rounded away from zero.


def away(x):
    return int(math.floor(abs(float(x)) + 0.5)) if x >= 0 else -int(math.floor(abs(float(x)) + 0.5))


def ensure_divide_f32(length, divisor):
    return max(int(f32(away(f32(length) / f32(divisor))) * f32(divisor)), divisor)


def find_best_resize_f32(size, scale, patch, allow_upscale):
    width, height = size
    if width * height > scale * scale or allow_upscale:
        ratio = f32(width) / f32(height)
        height = int(f32(scale) / np.sqrt(ratio))
        width = int(f32(height) * ratio)
    return ensure_divide_f32(width, patch), ensure_divide_f32(height, patch)


def plan_llama_cpp(options, width, height):
    _, _, scale, patch, _ = options
    most = 9
    if width <= scale and height <= scale:
        return (scale, scale, 0, 0, 0, 0, 0, 0, 0, 0)
    aim = f32(math.log(f32(width) / f32(height)))
    multiple = int(min(math.ceil(f32(width) * f32(height) / f32(scale * scale)), most))
    best, least = (1, 1), f32("inf")
    for grid in candidate_grids(multiple, most):
        error = f32(abs(float(aim) - math.log(grid[0] / grid[1])))
        if error < least:
            best, least = grid, error
    columns, rows = best
    overview = find_best_resize_f32((width, height), scale, patch, False)
    cell = (ensure_divide_f32(width, columns) // columns, ensure_divide_f32(height, rows) // rows)
    tile = find_best_resize_f32(cell, scale, patch, True)
    whole = (tile[0] * columns, tile[1] * rows)
    if whole == (width, height):
        content = whole
    else:
        factor = min(f32(whole[0]) / f32(width), f32(whole[1]) / f32(height))
        content = tuple(min(math.ceil(f32(n) * factor), m) for n, m in zip((width, height), whole))
    offset = ((whole[0] - content[0]) // 2, (whole[1] - content[1]) // 2)
    return (*overview, columns, rows, *tile, *content, *offset)


PLANS = {REFERENCE: plan_reference, LLAMA_CPP: plan_llama_cpp}
NAMES = {REFERENCE: "reference", LLAMA_CPP: "llama.cpp"}


def bicubic(pixels, size, order):
    image = Image.fromarray(pixels)
    if order == HORIZONTAL_FIRST:
        image = image.resize((size[0], image.height), Image.Resampling.BICUBIC)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def slice_pillow(options, pixels):
    h, w, _ = pixels.shape
    ow, oh, columns, rows, tw, th, cw, ch, cx, cy = PLANS[options[0]](options, w, h)
    order = options[4] if options[0] == REFERENCE else HORIZONTAL_FIRST
    slices = [bicubic(pixels, (ow, oh), order)]
    if columns:
        whole = Image.new("RGB", (columns * tw, rows * th))
        whole.paste(Image.fromarray(bicubic(pixels, (cw, ch), order)), (cx, cy))
        for y in range(rows):
            for x in range(columns):
                slices.append(np.asarray(whole.crop((x * tw, y * th, (x + 1) * tw, (y + 1) * th))))
    return slices


def random_picture(rng, w, h):
    """Noise, smooth noise, or hard edges: what makes sums overshoot."""
    numbers = np.random.default_rng(rng.getrandbits(32))
    kind = rng.randrange(3)
    if kind == 0:
        return numbers.integers(0, 256, (h, w, 3), np.uint8)
    if kind == 1:
        small = numbers.integers(0, 256, (max(1, h // 9), max(1, w // 9), 3), np.uint8)
        return np.asarray(Image.fromarray(small).resize((w, h), Image.Resampling.BILINEAR))
    return (numbers.integers(0, 2, (h, w, 3)) * 255).astype(np.uint8)


def random_side(rng, most):
    """Half of the sides are small, where the rounding is."""
    return rng.randint(1, rng.choice([20, most]))


def random_size(rng):
    style = rng.randrange(4)
    if style == 0:
        return rng.randint(1, 5000), rng.randint(1, 5000)
    if style == 1:
        return rng.randint(1, 900), rng.randint(1, 900)
    if style == 2:
        w = int(math.exp(rng.uniform(0, math.log(20000))))
        return w, int(math.exp(rng.uniform(0, math.log(20000))))
    return 14 * rng.randint(1, 200), 14 * rng.randint(1, 200)


def compare_resizes(program, rng, count):
    failures = 0
    for order, name in ORDERS.items():
        wrong = 0
        for _ in range(count):
            w, h = random_side(rng, 400), random_side(rng, 400)
            tw, th = random_side(rng, 500), random_side(rng, 500)
            size = (w if rng.random() < 0.1 else tw, h if rng.random() < 0.1 else th)
            pixels = random_picture(rng, w, h)
            if not np.array_equal(program.resize(pixels, size, order), bicubic(pixels, size, order)):
                wrong += 1
                print(f"resize {w}x{h} -> {size[0]}x{size[1]}, {name}, differs")
        print(f"resize, {name}: {count} random sizes, {wrong} differ (Pillow {PIL.__version__})")
        failures += wrong
    if PILLOW_13 not in ORDERS:
        print(f"SKIPPED: the order of Pillow 13 (this is {PIL.__version__})")
    return failures


def random_options(rng, profile):
    if rng.random() < 0.5:
        return (profile, 9, 448, 14, HORIZONTAL_FIRST)
    patch = rng.choice([1, 2, 4, 7, 14, 16])
    return (profile, rng.randint(1, 12), patch * rng.randint(1, 40), patch, HORIZONTAL_FIRST)


def compare_plans(program, rng, count):
    failures = 0
    for profile, rule in PLANS.items():
        wrong = grids = 0
        for _ in range(count):
            w, h = random_size(rng)
            options = random_options(rng, profile)
            expected = rule(options, w, h)
            grids += expected[2] > 0
            got = program.plan(options, w, h)
            if got != expected:
                wrong += 1
                print(f"plan {options} {w}x{h}: {got}, expected {expected}")
        print(f"plan, {NAMES[profile]}: {count} random sizes ({grids} with tiles), {wrong} differ")
        failures += wrong
    return failures


def compare_sliced(program, rng, count):
    failures = 0
    for profile in PLANS:
        wrong = slices = 0
        for _ in range(count):
            w, h = rng.randint(1, 1600), rng.randint(1, 1600)
            order = rng.choice(list(ORDERS))
            most, scale = (9, 448) if rng.random() < 0.3 else (rng.randint(1, 9), 112)
            options = (profile, most, scale, 14, order)
            pixels = random_picture(rng, w, h)
            expected = slice_pillow(options, pixels)
            got = program.slice(options, pixels)
            slices += len(expected)
            if len(got) != len(expected) or not all(np.array_equal(a, b) for a, b in zip(got, expected)):
                wrong += 1
                print(f"slices {options} of {w}x{h} differ")
        print(f"slice, {NAMES[profile]}: {count} pictures of {slices} slices, {wrong} differ")
        failures += wrong
    return failures


# Decoding.


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def lossless_files(rng):
    """(name, bytes): every mode that Pillow writes without loss."""
    numbers = np.random.default_rng(rng.getrandbits(32))

    def noise(*shape, kind=np.uint8):
        return numbers.integers(0, np.iinfo(kind).max + 1, shape, kind)

    rgb, rgba = Image.fromarray(noise(33, 47, 3)), Image.fromarray(noise(33, 47, 4))
    grey, la = Image.fromarray(noise(33, 47)), Image.merge("LA", [Image.fromarray(noise(33, 47)) for _ in "LA"])
    palette = rgb.quantize(200)
    for kind in ["PNG", "BMP"]:
        yield f"{kind} RGB", saved(rgb, kind)
        yield f"{kind} L", saved(grey, kind)
        yield f"{kind} P", saved(palette, kind)
        yield f"{kind} 1", saved(grey.convert("1"), kind)
        yield f"{kind} RGBA", saved(rgba, kind)
    yield "PNG LA", saved(la, "PNG")
    yield "PNG L, transparent value", saved(grey, "PNG", transparency=7)
    yield "PNG RGB, transparent colour", saved(rgb, "PNG", transparency=(1, 2, 3))
    yield "PNG P, transparent index", saved(palette, "PNG", transparency=3)
    yield "PNG P, alpha table", saved(palette, "PNG", transparency=bytes(range(200)))
    for colours, bits in [(2, 1), (4, 2), (16, 4)]:
        yield f"PNG P, {bits} bit", saved(rgb.quantize(colours), "PNG", bits=bits)
        yield f"BMP P, {colours} colours", saved(rgb.quantize(colours), "BMP")
    yield "PNG I;16", saved(Image.fromarray(noise(33, 47, kind=np.uint16)), "PNG")
    small = numbers.integers(0, 300, (33, 47), np.uint16)
    yield "PNG I;16, small values", saved(Image.fromarray(small), "PNG")
    for name, colour, channels, depth in [("RGB", 2, 3, 16), ("RGBA", 6, 4, 16), ("LA", 4, 2, 16), ("L", 0, 1, 2), ("L", 0, 1, 4)]:
        yield f"PNG {name}, {depth} bit", raw_png(numbers, colour, channels, depth)
    yield "PNG 1x1", saved(rgb.crop((0, 0, 1, 1)), "PNG")
    yield "PNG 1x900", saved(rgb.resize((1, 900)), "PNG")
    yield "WebP lossless RGB", saved(rgb, "WEBP", lossless=True)
    yield "WebP lossless RGBA", saved(rgba, "WEBP", lossless=True, exact=True)
    yield "WebP animated", saved(rgb, "WEBP", lossless=True, save_all=True, append_images=[rgb.rotate(180)])
    yield "GIF P", saved(palette, "GIF")
    yield "GIF L", saved(grey, "GIF")
    yield "GIF transparent", saved(palette, "GIF", transparency=5)
    yield "GIF interlaced", saved(palette, "GIF", interlace=1)
    yield "GIF animated", saved(palette, "GIF", save_all=True, append_images=[grey.convert("P")])


def raw_png(numbers, colour, channels, depth):
    """A PNG of a depth that Pillow reads but does not write."""
    import zlib

    w, h = 21, 13
    row = (w * channels * depth + 7) // 8
    data = b"".join(b"\0" + numbers.integers(0, 256, row, np.uint8).tobytes() for _ in range(h))

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", w, h, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def pillow_rgb(data, orientation=False):
    image = Image.open(io.BytesIO(data))
    if orientation:
        image = ImageOps.exif_transpose(image)
    return np.asarray(image.convert("RGB"))


def compare_decoding(program, rng):
    wrong = count = 0
    for name, data in lossless_files(rng):
        count += 1
        got, expected = program.decode(data), pillow_rgb(data)
        if isinstance(got, str) or not np.array_equal(got, expected):
            wrong += 1
            print(f"decode {name}: {got if isinstance(got, str) else difference(got, expected)}")
    rgb = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 30, 3), np.uint8))
    for kind, options in [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95, "subsampling": 0})]:
        for orientation in range(10):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = saved(rgb, kind, exif=exif.tobytes(), **options)
            for apply in (False, True):
                count += 1
                got, expected = program.decode(data, apply), pillow_rgb(data, apply)
                near = not isinstance(got, str) and got.shape == expected.shape
                limit = 4 if kind == "JPEG" else 0
                if not near or np.abs(got.astype(int) - expected).max() > limit:
                    wrong += 1
                    print(f"decode {kind}, orientation {orientation}, {'applied' if apply else 'ignored'}: differs")
    print(f"decode: {count} files without loss or with orientation, {wrong} differ")
    return wrong


def difference(got, expected):
    if got.shape != expected.shape:
        return f"size {got.shape[1]}x{got.shape[0]}, expected {expected.shape[1]}x{expected.shape[0]}"
    d = np.abs(got.astype(int) - expected)
    return f"largest difference {d.max()}, mean {d.mean():.4f}, equal {np.mean(d == 0):.2%}"


def photo_like(seed, w=640, h=480):
    """Smooth colours, edges and a little noise."""
    numbers = np.random.default_rng(seed)
    base = Image.fromarray(numbers.integers(0, 256, (h // 40, w // 40, 3), np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    pixels = np.asarray(base).astype(int) + numbers.normal(0, 4, (h, w, 3)).astype(int)
    pixels[h // 4 : h // 2, w // 4 : w // 2] = 255 - pixels[h // 4 : h // 2, w // 4 : w // 2]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def report_lossy(program):
    image = photo_like(1)
    for subsampling, name in [(0, "4:4:4"), (1, "4:2:2"), (2, "4:2:0")]:
        for quality in [30, 50, 75, 90, 95, 100]:
            for progressive in (False, True):
                data = saved(image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive)
                kind = "progressive" if progressive else "baseline"
                print(f"JPEG {name} {kind} quality {quality}: {lossy(program, data)}")
    print(f"JPEG grey quality 90: {lossy(program, saved(image.convert('L'), 'JPEG', quality=90))}")
    print(f"JPEG CMYK quality 90: {lossy(program, saved(image.convert('CMYK'), 'JPEG', quality=90))}")
    for quality in [50, 90]:
        print(f"WebP lossy quality {quality}: {lossy(program, saved(image, 'WEBP', quality=quality))}")
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.linear_gradient("L").resize(rgba.size))
    print(f"WebP lossy RGBA quality 90: {lossy(program, saved(rgba, 'WEBP', quality=90))}")


def lossy(program, data):
    got = program.decode(data)
    return got if isinstance(got, str) else difference(got, pillow_rgb(data))


# Video.


def sample(total, avg_fps, fps, most):
    chosen = list(range(0, total, max(round(avg_fps / fps), 1)))
    if len(chosen) > most:
        gap = len(chosen) / most
        chosen = [chosen[int(i * gap + gap / 2)] for i in range(most)]
    return chosen


def ffmpeg(*arguments):
    return subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *arguments], capture_output=True, check=True).stdout


def compare_videos(program):
    """Films made by ffmpeg, every frame of which ffmpeg also decodes for the comparison."""
    if not shutil.which("ffmpeg"):
        print("SKIPPED: videos, for want of ffmpeg")
        return 0
    wrong = count = 0
    with tempfile.TemporaryDirectory() as folder:
        path = lambda name: str(pathlib.Path(folder, name))
        source = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=30000/1001:duration=9"]
        h264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p"]
        ffmpeg(*source, *h264, "-bf", "3", path("b-frames.mp4"))
        ffmpeg("-i", path("b-frames.mp4"), "-c", "copy", "-metadata:s:v:0", "rotate=90", path("turned.mp4"))
        ffmpeg(*source, "-vf", "select='not(eq(mod(n,7),3))'", "-vsync", "vfr", *h264, path("variable.mkv"))
        ffmpeg(*source, *h264, path("-y --option,[0].mov"))
        ffmpeg(*source, "-c:v", "mjpeg", path("a.avi"))
        for name in ["b-frames.mp4", "turned.mp4", "variable.mkv", "-y --option,[0].mov", "a.avi"]:
            probe = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-show_entries", "stream=avg_frame_rate", "-of", "csv=p=0"]
            rate = subprocess.run([*probe, "file:" + path(name)], capture_output=True, check=True, text=True).stdout
            upper, lower = map(int, rate.split()[0].rstrip(",").split("/"))
            width, height = (120, 160) if name == "turned.mp4" else (160, 120)
            raw = ffmpeg("-i", "file:" + path(name), "-vsync", "0", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
            every = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
            for fps, most in [(1, 64), (30, 64), (2, 4), (30, 1024), (0.5, 1)]:
                count += 1
                expected = sample(len(every), upper / lower, fps, most)
                got = program.video(path(name), fps, most)
                if isinstance(got, str):
                    wrong += 1
                    print(f"video {name}: {got}")
                elif [i for i, _ in got] != expected or not all(np.array_equal(p, every[i]) for i, p in got):
                    wrong += 1
                    print(f"video {name} at {fps} per second: frames {[i for i, _ in got]}, expected {expected}")
    print(f"video: {count} samplings, {wrong} differ")
    return wrong


# Hashes for the Rust tests.


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def pattern(w, h):
    """Byte i is the top byte of i * 2654435761 mod 2^32."""
    i = np.arange(3 * w * h, dtype=np.uint64)
    return ((i * 2654435761 % 2**32) >> 24).astype(np.uint8).reshape(h, w, 3)


class Lcg:
    """Knuth's MMIX generator, the same in the Rust tests."""

    def __init__(self):
        self.state = 1

    def below(self, n):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % n


GOLDEN_SIZES = [9, 40, 130, 300]


def print_golden():
    numbers = Lcg()
    print("const RESIZES: &[(usize, usize, usize, usize, u64, u64)] = &[")
    for case in range(40):
        w, h, tw, th = (1 + numbers.below(GOLDEN_SIZES[numbers.below(4)]) for _ in range(4))
        if case % 10 == 9:
            tw = w
        if case % 10 == 8:
            th = h
        hashes = [fnv(bicubic(pattern(w, h), (tw, th), order).tobytes()) for order in ORDERS]
        print(f"    ({w}, {h}, {tw}, {th}, {', '.join(f'{h:#018x}' for h in hashes)}),")
    print("];")
    for profile, rule in PLANS.items():
        numbers = Lcg()
        value = 0xCBF29CE484222325
        for case in range(20000):
            most = 1 + numbers.below(6000)
            w, h = 1 + numbers.below(most), 1 + numbers.below(most)
            options = (profile, 9, 448, 14, 0)
            if case % 2 == 1:
                options = (profile, 1 + numbers.below(12), 16 * (1 + numbers.below(12)), 16, 0)
            for number in rule(options, w, h):
                value = (value ^ number) * 0x100000001B3 % 2**64
        print(f"plans, {NAMES[profile]}: {value:#018x}")
    for profile in PLANS:
        for w, h in [(200, 150), (150, 40), (333, 71), (61, 320)]:
            hashes = []
            for order in ORDERS:
                slices = slice_pillow((profile, 9, 56, 14, order), pattern(w, h))
                hashes.append(f"{fnv(b''.join(s.tobytes() for s in slices)):#018x}")
            print(f"slices, {NAMES[profile]}, {w}x{h}: ({len(slices)}, {', '.join(hashes)})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program")
    parser.add_argument("--resizes", type=int, default=2000)
    parser.add_argument("--plans", type=int, default=20000)
    parser.add_argument("--sliced", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--golden", action="store_true")
    arguments = parser.parse_args()
    if arguments.golden:
        print_golden()
        return
    if not arguments.program:
        parser.error("give --program or --golden")
    program, rng = Program(arguments.program), random.Random(arguments.seed)
    wrong = compare_decoding(program, rng)
    wrong += compare_videos(program)
    wrong += compare_plans(program, rng, arguments.plans)
    wrong += compare_sliced(program, rng, arguments.sliced)
    wrong += compare_resizes(program, rng, arguments.resizes)
    report_lossy(program)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
