"""Checks that the `gguf` Python package and this crate read each other's files.

Not part of `cargo test`. Needs Python 3 with `pip install gguf numpy`:

    python3 gguf/tests/interop.py

Writes files with every value and array type, all dimensions counts, several formats and alignments on both sides,
and compares everything the other side reads.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_example(*args):
    command = ["cargo", "run", "-q", "-p", "ocelli-gguf", "--example", "interop", "--", *map(str, args)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def read_with_python(path):
    reader = gguf.GGUFReader(path)
    fields = {}
    for key, field in reader.fields.items():
        if key.startswith("GGUF."):
            continue
        types = [t.name for t in field.types]
        value = field.contents()
        fields[key] = [types, value]
    tensors = {
        t.name: [t.tensor_type.name, [int(d) for d in t.shape], int(t.data_offset), bytes(t.data.tobytes()).hex()]
        for t in reader.tensors
    }
    return {"fields": fields, "tensors": tensors}


def write_with_python(path, alignment):
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, value in [("uint8", 200), ("int8", -5), ("uint16", 60000), ("int16", -30000), ("uint32", 4000000000),
                        ("int32", -2000000000), ("uint64", 1 << 63), ("int64", -(1 << 62)), ("float32", 0.5),
                        ("float64", 1e300), ("bool", True), ("string", "grün ▁ 😀")]:
        getattr(writer, f"add_{name}")(f"test.{name}", value)
    writer.add_array("test.strings", ["a", "", "▁b"])
    writer.add_array("test.ints", [1, -2, 3])
    writer.add_array("test.floats", [0.5, -1.25])
    writer.add_array("test.bools", [True, False, True])
    rng = np.random.default_rng(1)
    writer.add_tensor("f32", rng.standard_normal((3, 5)).astype(np.float32))
    writer.add_tensor("f16", rng.standard_normal((2, 3, 7)).astype(np.float16))
    writer.add_tensor("four", rng.standard_normal((2, 2, 2, 3)).astype(np.float32))
    writer.add_tensor("i32", np.arange(9, dtype=np.int32))
    q8_0 = gguf.quants.quantize(rng.standard_normal((2, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("q8_0", q8_0, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path, what):
    python, ours = read_with_python(path), json.loads(run_example("read", path))
    if python != ours:
        for part in ("fields", "tensors"):
            for key in sorted(python[part].keys() | ours[part].keys()):
                a, b = python[part].get(key), ours[part].get(key)
                if a != b:
                    print(f"{what}: {key}: Python reads {a}, ocelli-gguf reads {b}")
        sys.exit(1)
    print(f"{what}: {len(ours['fields'])} keys and {len(ours['tensors'])} tensors agree")


def main():
    with tempfile.TemporaryDirectory() as tmp:
        for alignment in (0, 64, 256):
            path = pathlib.Path(tmp) / f"python-{alignment}.gguf"
            write_with_python(path, alignment)
            check(path, f"written by Python, alignment {alignment or 32}")
            path = pathlib.Path(tmp) / f"ours-{alignment}.gguf"
            run_example("write", path, alignment or 32)
            check(path, f"written by ocelli-gguf, alignment {alignment or 32}")


main()
