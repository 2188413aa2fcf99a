#!/usr/bin/env python3
"""Compares Ocelli's vision embeddings with a float32 reference, slice by slice.

    cargo build --release -p ocelli-runtime --example vision_dump
    python vision_reference.py --dump target/release/examples/vision_dump --checkpoint DIR --mmproj FILE.gguf \
        [--sizes 448x448 546x364 …] [--fast] [--positions reference|llama.cpp] [--seed N]

CHECKPOINT is a Hugging Face folder (for example from `ocelli synth`), FILE.gguf the vision file that `ocelli convert`
made of it. With --checkpoint FILE.gguf the reference takes that file's own values (needs the gguf package). The reference is the Idefics2 vision transformer of transformers with the position ids of the published
model code (its fractions come from torch.arange, not from a float32 product), and torch's MultiheadAttention for the
resampler, all in float32. Sizes are width x height in pixels, multiples of 14.

Exact mode: exit status 1 when a value differs by more than 2e-4 of the largest value of its tensor. With --fast: when
the cosine of a row falls below 0.999.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import Idefics2VisionConfig
from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

LIMIT, COSINE = 2e-4, 0.999
SIZES = ["448x448", "546x364", "1218x168", "350x560", "14x14"]


def load(folder):
    tensors = {}
    for shard in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(shard, framework="pt") as f:
            for name in f.keys():
                if name.startswith(("vpm.", "resampler.")):
                    tensors[name] = f.get_tensor(name).to(torch.float32)
    return tensors


def load_gguf(path):
    """The tensors of a vision file under the checkpoint's names, and its configuration."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(path)
    raw = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).to(torch.float32) for t in reader.tensors}
    key = lambda name: reader.fields[f"clip.vision.{name}"].contents()
    raw.pop("resampler.pos_embed_k", None)
    out = {}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    parts |= {"attn_out": "self_attn.out_proj", "ln1": "layer_norm1", "ln2": "layer_norm2"}
    widening = "ffn_down" if raw["v.blk.0.ffn_down.weight"].shape[1] == key("embedding_length") else "ffn_up"
    parts |= {"ffn_down": "mlp.fc1", "ffn_up": "mlp.fc2"} if widening == "ffn_down" else {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}
    singles = {"v.patch_embd": "embeddings.patch_embedding", "v.position_embd": "embeddings.position_embedding"}
    singles |= {"v.post_ln": "post_layernorm"}
    for name, tensor in raw.items():
        stem, kind = name.rsplit(".", 1)
        if name.startswith("v.blk."):
            _, _, layer, part = stem.split(".")
            out[f"vpm.encoder.layers.{layer}.{parts[part]}.{kind}"] = tensor
        elif stem in singles:
            out[f"vpm.{singles[stem]}.{kind}"] = tensor
        elif name == "resampler.proj.weight":
            out["resampler.proj"] = tensor.T.contiguous()
        elif name == "resampler.kv.weight":
            out["resampler.kv_proj.weight"] = tensor
        elif stem == "resampler.attn.out":
            out[f"resampler.attn.out_proj.{kind}"] = tensor
        elif not stem.startswith("resampler.attn"):
            out[name] = tensor
    for kind in ["weight", "bias"]:
        thirds = [raw[f"resampler.attn.{part}.{kind}"] for part in "qkv"]
        out[f"resampler.attn.in_proj_{kind}"] = torch.cat(thirds)
    grid = int(raw["v.position_embd.weight"].shape[0] ** 0.5)
    config = {"hidden_size": key("embedding_length"), "intermediate_size": key("feed_forward_length")}
    config |= {"num_hidden_layers": key("block_count"), "num_attention_heads": key("attention.head_count")}
    config |= {"patch_size": key("patch_size"), "image_size": grid * key("patch_size")}
    return out, config


def buckets(n, grid, positions):
    if positions == "llama.cpp":
        return torch.arange(n) * grid // n
    boundaries = torch.arange(1 / grid, 1.0, 1 / grid)
    return torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(n)), boundaries, right=True)


def sincos(width, rows, cols):
    quarter = width // 4
    omega = 1.0 / 10000 ** (torch.arange(quarter, dtype=torch.float32) / quarter)
    line = lambda n: torch.arange(n, dtype=torch.float32)[:, None] * omega[None]
    along, down = line(cols)[None].expand(rows, -1, -1), line(rows)[:, None].expand(-1, cols, -1)
    table = [torch.sin(along), torch.cos(along), torch.sin(down), torch.cos(down)]
    return torch.cat(table, dim=-1).reshape(rows * cols, width)


class Reference:
    def __init__(self, folder, positions):
        if pathlib.Path(folder).is_file():
            tensors, vision = load_gguf(folder)
        else:
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
            tensors, vision = load(folder), {k: v for k, v in config["vision_config"].items() if k != "model_type"}
        self.config = Idefics2VisionConfig(**vision, attn_implementation="eager")
        self.positions = positions
        part = lambda prefix: {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.tower = Idefics2VisionTransformer(self.config).to(torch.float32).eval()
        self.tower.load_state_dict(part("vpm."), strict=True)
        self.weights = part("resampler.")
        self.width = self.weights["query"].shape[1]
        self.attention = nn.MultiheadAttention(self.width, self.width // 128).eval()
        self.attention.load_state_dict(part("resampler.attn."), strict=True)

    @torch.no_grad()
    def run(self, pixels):
        values = torch.from_numpy(pixels.copy()).permute(2, 0, 1).to(torch.float32)
        values = ((values / 255 - 0.5) / 0.5)[None]
        embeddings, size = self.tower.embeddings, self.config.patch_size
        rows, cols = pixels.shape[0] // size, pixels.shape[1] // size
        grid = self.config.image_size // size
        ids = buckets(rows, grid, self.positions)[:, None] * grid + buckets(cols, grid, self.positions)
        hidden = embeddings.patch_embedding(values).flatten(2).transpose(1, 2)
        hidden = hidden + embeddings.position_embedding(ids.flatten())
        hidden = self.tower.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        tower = self.tower.post_layernorm(hidden)[0]
        return tower, self.resample(tower, rows, cols)

    def norm(self, x, name):
        w = self.weights
        return nn.functional.layer_norm(x, (self.width,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    def resample(self, tower, rows, cols):
        w = self.weights
        x = self.norm(tower @ w["kv_proj.weight"].T, "ln_kv")
        q = self.norm(w["query"], "ln_q")
        k = x + sincos(self.width, rows, cols)
        out = self.attention(q[:, None], k[:, None], x[:, None], need_weights=False)[0][:, 0]
        return self.norm(out, "ln_post") @ w["proj"]


def picture(width, height, rng):
    """A mixture of gradients, blocks and noise, so that patches differ from each other."""
    y, x = np.mgrid[0:height, 0:width]
    smooth = [128 + 100 * np.sin(x / (20 + 9 * c) + y / (31 - 5 * c)) for c in range(3)]
    blocks = rng.integers(-60, 60, (height // 7, width // 7, 3)).repeat(7, 0).repeat(7, 1)
    noise = rng.normal(0, 12, (height, width, 3))
    return np.clip(np.stack(smooth, -1) + blocks + noise, 0, 255).astype(np.uint8)


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", default="target/release/examples/vision_dump")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--sizes", nargs="+", default=SIZES)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--positions", choices=["reference", "llama.cpp"], default="reference")
    parser.add_argument("--threads", default="0")
    parser.add_argument("--isa")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pictures = [picture(*map(int, size.split("x")), rng) for size in args.sizes]
    reference = Reference(args.checkpoint, args.positions)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i, pixels in enumerate(pictures):
            files.append(f"{folder}/{i}.png")
            Image.fromarray(pixels).save(files[-1])
        out = f"{folder}/out.safetensors"
        command = [args.dump, args.mmproj, out, "--threads", args.threads, *files]
        command += ["--fast"] if args.fast else []
        command += ["--llama.cpp"] if args.positions == "llama.cpp" else []
        command += ["--isa", args.isa] if args.isa else []
        subprocess.run(command, check=True)
        with safe_open(out, framework="np") as f:
            ours = {name: f.get_tensor(name) for name in f.keys()}
    good = True
    for i, (size, pixels) in enumerate(zip(args.sizes, pictures)):
        theirs = dict(zip(["vit", "emb"], reference.run(pixels)))
        line = f"{size:>9}"
        for stage in ["vit", "emb"]:
            a, b = ours[f"{i}.{stage}"], theirs[stage].numpy()
            assert a.shape == b.shape, (a.shape, b.shape)
            far = float(np.abs(a - b).max() / np.abs(b).max())
            cos = cosines(a, b)
            good &= cos.min() >= COSINE if args.fast else far <= LIMIT
            line += f"  {stage}: difference {far:.1e} of {np.abs(b).max():.1f}, cosine min {cos.min():.6f} mean {cos.mean():.6f}"
        print(line)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
