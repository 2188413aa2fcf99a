#!/usr/bin/env python3
"""Makes the test vectors of the tensor formats: inputs.bin and manifest.txt. See README.md."""

import argparse
import hashlib
import io
import struct
import subprocess
import zipfile

import numpy as np

# Name, type code, block length.
FORMATS = [
    ("F32", 0, 1), ("F16", 1, 1), ("BF16", 30, 1), ("Q4_0", 2, 32), ("Q4_1", 3, 32), ("Q5_0", 6, 32), ("Q5_1", 7, 32),
    ("Q8_0", 8, 32), ("Q2_K", 10, 256), ("Q3_K", 11, 256), ("Q4_K", 12, 256), ("Q5_K", 13, 256), ("Q6_K", 14, 256),
    ("Q8_K", 15, 256), ("IQ4_NL", 20, 32),
]
UNWEIGHTED = {"F32", "F16", "BF16", "Q8_0", "Q8_K"}


def f32(x):
    return np.asarray(x, dtype=np.float64).astype(np.float32)


def bf16(x):
    bits = f32(x).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def weights(rng, shape):
    return f32(rng.normal(0, 0.02, shape))


def log_uniform(rng, shape, low, high):
    return f32(rng.choice([-1, 1], shape) * 10.0 ** rng.uniform(low, high, shape))


def constants(rng, shape):
    """Groups of 16 that are all one value: zero, positive, negative, and blocks of them."""
    x = np.repeat(rng.choice([0.0, 0.5, -0.5, 0.1, -0.03, 1e-3], shape[0] * shape[1] // 16), 16).reshape(shape)
    x[0, : shape[1] // 2] = 0
    x[-1, :256] = rng.choice([-0.7, 0.7])
    return f32(x)


def outliers(rng, shape):
    x = weights(rng, shape)
    return f32(np.where(rng.random(shape) < 0.01, x * 80, x))


def outlier_columns(rng, shape):
    x = weights(rng, shape)
    x[:, rng.integers(0, shape[1], max(1, shape[1] // 128))] *= 300
    return f32(x)


def lonely(rng, shape):
    """One value per 32."""
    x = np.zeros(shape)
    for r in range(shape[0]):
        for b in range(0, shape[1], 32):
            x[r, b + rng.integers(32)] = rng.normal()
    return f32(x)


def signed_zeros(rng, shape):
    return f32(np.where(rng.random(shape) < 0.5, np.where(rng.random(shape) < 0.5, 0.0, -0.0), weights(rng, shape)))


def denormals(rng, shape):
    bits = rng.integers(0, 1 << 23, shape, dtype=np.uint32) >> rng.integers(0, 20, shape, dtype=np.uint32)
    return (bits | (rng.integers(0, 2, shape, dtype=np.uint32) << 31)).astype(np.uint32).view(np.float32)


def near_max(rng, shape):
    x = rng.uniform(-1, 1, shape) * float(np.finfo(np.float32).max)
    x[0, :64] = np.abs(x[0, :64])
    return f32(x)


CASES = [
    ("normal", (2, 768), weights),
    ("uniform", (2, 512), lambda g, s: f32(g.uniform(-0.1, 0.1, s))),
    ("bf16-valued", (2, 512), lambda g, s: bf16(weights(g, s))),
    ("f16-valued", (2, 512), lambda g, s: f32(weights(g, s).astype(np.float16))),
    ("outliers", (2, 512), outliers),
    ("outlier-columns", (2, 512), outlier_columns),
    ("zeros", (1, 512), lambda g, s: np.zeros(s, np.float32)),
    ("signed-zeros", (2, 512), signed_zeros),
    ("constants", (4, 512), constants),
    ("lonely", (2, 512), lonely),
    ("denormals", (2, 512), denormals),
    ("near-smallest-normal", (2, 512), lambda g, s: log_uniform(g, s, -39, -36)),
    ("around-zero-threshold", (2, 512), lambda g, s: log_uniform(g, s, -17, -13)),
    ("f16-underflow", (2, 512), lambda g, s: log_uniform(g, s, -9, -4)),
    ("f16-overflow", (2, 512), lambda g, s: f32(g.normal(0, 1e6, s))),
    ("huge", (2, 512), lambda g, s: f32(g.normal(0, 1e30, s))),
    ("near-f32-max", (2, 512), near_max),
    ("negative", (4, 512), lambda g, s: f32(-np.abs(g.normal(0, 0.02, s)) - 1e-3)),
    ("negative-offset", (2, 512), lambda g, s: f32(-1 + g.normal(0, 1e-3, s))),
    ("positive", (2, 512), lambda g, s: f32(np.abs(g.normal(0, 0.02, s)) + 1e-3)),
    ("half-zeros", (2, 512), lambda g, s: f32(np.maximum(g.normal(0, 1, s), 0))),
    ("ties", (2, 512), lambda g, s: f32(g.integers(-8, 9, s) * 0.125)),
    ("few-levels", (2, 512), lambda g, s: f32(g.choice([-1.0, 0.0, 1.0], s))),
    ("log-uniform", (2, 512), lambda g, s: log_uniform(g, s, -6, 0)),
    ("mixed-magnitudes", (2, 512), lambda g, s: log_uniform(g, s, -38, 38)),
    ("ramp", (1, 512), lambda g, s: f32(np.linspace(-1, 1, s[0] * s[1]).reshape(s))),
    ("long-row", (1, 17 * 256), weights),
    ("short-row", (3, 160), weights),
]


def importances(rng, n):
    """Importance vectors that each case is quantised with, by turns."""
    ordinary = rng.normal(0, 1, n) ** 2
    return {
        "squares": ordinary,
        "constant": np.full(n, 0.25),
        "half-zeros": np.where(rng.random(n) < 0.5, 0, ordinary),
        "zero-groups": np.repeat(rng.random(n // 16) < 0.5, 16) * ordinary,
        "zeros": np.zeros(n),
        "wide": 10.0 ** rng.uniform(-20, 20, n),
        "extreme": 10.0 ** rng.uniform(-38, 38, n),
        "one-column": np.where(np.arange(n) % 64 == 7, 1e6, 1e-6),
    }


def real_rows(path):
    """Rows of a trained model's tensors, from a GGUF file or an archive that holds one."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    if zipfile.is_zipfile(path):
        import tempfile

        with zipfile.ZipFile(path) as archive:
            name = next(n for n in archive.namelist() if n.endswith(".gguf"))
            with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
                file.write(archive.read(name))
                file.flush()
                return real_rows(file.name)
    tensors = {t.name: t for t in GGUFReader(path).tensors}
    rows = []
    for name, row in [("token_embd.weight", 1000), ("blk.0.attn_q.weight", 3), ("blk.5.ffn_down.weight", 100),
                      ("blk.10.attn_v.weight", 7), ("blk.20.ffn_gate.weight", 500), ("blk.29.attn_output.weight", 11)]:
        tensor = tensors[name]
        values = dequantize(tensor.data, tensor.tensor_type)
        rows.append(values.reshape(-1, values.shape[-1])[row][:512])
    rows.append(np.concatenate([tensors[f"blk.{i}.attn_norm.weight"].data for i in (0, 29)])[:512])
    return np.ascontiguousarray(np.stack(rows), dtype=np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", help="the program built from reference.c")
    parser.add_argument("model", help="GGUF file of a trained model, or an archive holding one; '-' for none")
    parser.add_argument("outdir")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1, help="multiply the rows of every case by this")
    parser.add_argument("--all", action="store_true", help="every case with every importance vector")
    args = parser.parse_args()

    process = subprocess.Popen([args.reference], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    rng = np.random.default_rng(args.seed)
    inputs, manifest = io.BytesIO(), []

    def store(values):
        at = inputs.tell() // 4
        inputs.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        return at

    def ask(code, x, importance, row_bytes):
        request = struct.pack("=4q", code, *x.shape, int(importance is not None)) + x.tobytes()
        request += importance.tobytes() if importance is not None else b""
        process.stdin.write(request)
        process.stdin.flush()
        stored = process.stdout.read(x.shape[0] * row_bytes)
        return stored, process.stdout.read(x.size * 4)

    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    vectors = {}
    for n in sorted({shape[1] for _, shape, _ in CASES}):
        kinds = list(importances(rng, n).items())
        kinds = kinds if n < 4096 or args.all else kinds[:1]
        vectors[n] = [(k, f32(v), store(f32(v))) for k, v in kinds]
    cases = [(name, make(rng, (shape[0] * args.rows, shape[1]))) for name, shape, make in CASES]
    if args.model != "-":
        cases.append(("real-rows", real_rows(args.model)))
    turns = 0
    with np.errstate(all="ignore"):
        for name, x in cases:
            assert np.isfinite(x).all(), name
            rows, cols = x.shape
            # All importance vectors for a few cases, the plainest and three others by turns for the rest.
            every = vectors[cols]
            turn = [every[1 + (turns + 2 * k) % (len(every) - 1)] for k in range(3)] if len(every) > 1 else []
            used = every if name in ("normal", "negative", "constants", "real-rows") or args.all else [every[0], *turn]
            turns += 1
            manifest.append(f"case {name} at {store(x)} rows {rows} cols {cols}")
            for format, code, block in FORMATS:
                if cols % block:
                    continue
                block_len, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(code)]
                assert block_len == block
                weighted = [] if format in UNWEIGHTED else used
                for kind, importance, at in [("none", None, 0), *weighted]:
                    stored, expanded = ask(code, x, importance, cols // block * block_bytes)
                    values = np.frombuffer(expanded, np.float32)
                    # How a NaN's sign comes out depends on the compiler; its being one does not.
                    values = np.where(np.isnan(values), np.float32(np.nan), values)
                    manifest.append(
                        f"{format} {kind} {at} {hashlib.sha256(stored).hexdigest()[:24]}"
                        f" {hashlib.sha256(values.astype('<f4').tobytes()).hexdigest()[:12]}"
                    )
    process.stdin.close()
    with open(f"{args.outdir}/inputs.bin", "wb") as file:
        file.write(inputs.getvalue())
    with open(f"{args.outdir}/manifest.txt", "w") as file:
        file.write("\n".join(manifest) + "\n")


main()
