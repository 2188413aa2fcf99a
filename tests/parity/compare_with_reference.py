#!/usr/bin/env python3
"""Compares `ocelli probe` with a float32 Llama reference, tensor by tensor.

    python compare_with_reference.py --ocelli target/release/ocelli --checkpoint DIR --model FILE.gguf \
        [--engine transformers|numpy] [--lengths 1 7 200 2000] [--steps 32] [--no-longrope]

CHECKPOINT is a Hugging Face folder (for example from `ocelli synth`), FILE.gguf what `ocelli convert --outtype F32`
made of it. The prompt of each length is a run of words; its ids are taken from the probe's file, so tokenisers are not
compared. `transformers` runs LlamaForCausalLM in float32 (needs torch and transformers); `numpy` runs the same
mathematics written out below, from the checkpoint's own tensors and rotate-half pairing.

With --no-longrope both sides run without factors (convert with --no-rope-factors).
Exit status 1 when a logit differs by 2e-3 or more, or a greedy token differs.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from safetensors import safe_open

LIMIT = 2e-3


def load_checkpoint(folder, framework):
    tensors = {}
    for shard in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with safe_open(shard, framework=framework) as f:
            for name in f.keys():
                short = name.removeprefix("llm.")
                if short.startswith(("model.", "lm_head.")):
                    tensors[short] = f.get_tensor(name)
    return tensors


def bf16_to_f32(folder):
    """numpy has no bfloat16: read the raw file."""
    tensors = {}
    kinds = {"F32": np.float32, "F16": np.float16}
    for shard in sorted(pathlib.Path(folder).glob("*.safetensors")):
        raw = shard.read_bytes()
        n = int.from_bytes(raw[:8], "little")
        for name, info in json.loads(raw[8 : 8 + n]).items():
            short = name.removeprefix("llm.")
            if name == "__metadata__" or not short.startswith(("model.", "lm_head.")):
                continue
            begin, end = info["data_offsets"]
            data = raw[8 + n + begin : 8 + n + end]
            if info["dtype"] == "BF16":
                values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(data, kinds[info["dtype"]]).astype(np.float32)
            tensors[short] = values.reshape(info["shape"])
    return tensors


class NumpyLlama:
    def __init__(self, folder, config, longrope):
        self.w, self.c = bf16_to_f32(folder), config
        dim = config["head_dim"]
        power = np.float32(config["rope_theta"]) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
        factors = np.ones(dim // 2, np.float32)
        if longrope:
            factors = np.array(config["rope_scaling"]["short_factor"], np.float32)
        self.inv_freq = (np.float32(1) / (factors * power)).astype(np.float32)

    def norm(self, x, name):
        variance = np.mean(x.astype(np.float32) ** 2, axis=-1, keepdims=True)
        return self.w[name] * (x / np.sqrt(variance + np.float32(self.c["rms_norm_eps"])))

    def rope(self, x, first):
        angle = np.outer(np.arange(first, first + x.shape[1], dtype=np.float32), self.inv_freq)
        cos, sin = np.cos(angle), np.sin(angle)
        half = x.shape[-1] // 2
        a, b = x[..., :half], x[..., half:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)

    def forward(self, ids, cache):
        c = self.c
        heads, kv, dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        x = self.w["model.embed_tokens.weight"][ids]
        n, first = len(ids), cache[0][0].shape[1] if cache else 0
        new = []
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm.weight")
            split = lambda name, k: (h @ self.w[p + f"self_attn.{name}.weight"].T).reshape(n, k, dim).transpose(1, 0, 2)
            q, k, v = self.rope(split("q_proj", heads), first), self.rope(split("k_proj", kv), first), split("v_proj", kv)
            if cache:
                k, v = np.concatenate([cache[i][0], k], 1), np.concatenate([cache[i][1], v], 1)
            new.append((k, v))
            out = np.empty((heads, n, dim), np.float32)
            mask = np.arange(k.shape[1])[None, :] > first + np.arange(n)[:, None]
            for j in range(heads):
                s = q[j] @ k[j * kv // heads].T / np.float32(np.sqrt(dim))
                s[mask] = -np.inf
                s = np.exp(s - s.max(-1, keepdims=True))
                out[j] = (s / s.sum(-1, keepdims=True)) @ v[j * kv // heads]
            x = x + out.transpose(1, 0, 2).reshape(n, -1) @ self.w[p + "self_attn.o_proj.weight"].T
            h = self.norm(x, p + "post_attention_layernorm.weight")
            gate, up = h @ self.w[p + "mlp.gate_proj.weight"].T, h @ self.w[p + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ self.w[p + "mlp.down_proj.weight"].T
        head = self.w.get("lm_head.weight", self.w["model.embed_tokens.weight"])
        return self.norm(x[-1], "model.norm.weight") @ head.T, new

    def run(self, ids, steps):
        logits, cache = self.forward(np.array(ids), [])
        rows = []
        for _ in range(steps):
            rows.append(logits)
            logits, cache = self.forward(np.array([int(np.argmax(logits))]), cache)
        return np.stack(rows)


class TransformersLlama:
    def __init__(self, folder, config, longrope):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        keep = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]
        keep += ["num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "max_position_embeddings"]
        keep += ["tie_word_embeddings"]
        arguments = {k: config[k] for k in keep if k in config}
        if longrope:
            scaling = {k: v for k, v in config["rope_scaling"].items() if k != "type"}
            arguments["rope_scaling"] = {"rope_type": "longrope", "rope_theta": config["rope_theta"], **scaling}
        self.torch = torch
        self.model = LlamaForCausalLM(LlamaConfig(**arguments)).to(torch.float32).eval()
        state = {k: v.to(torch.float32) for k, v in load_checkpoint(folder, "pt").items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        assert not unexpected and all("rotary" in m or m == "lm_head.weight" for m in missing), (missing, unexpected)

    def run(self, ids, steps):
        torch = self.torch
        rows, cache, tokens = [], None, torch.tensor([ids])
        with torch.no_grad():
            for _ in range(steps):
                out = self.model(tokens, past_key_values=cache, use_cache=True)
                cache, logits = out.past_key_values, out.logits[0, -1]
                rows.append(logits.numpy())
                tokens = logits.argmax().reshape(1, 1)
        return np.stack(rows)


def count_tokens(args, text):
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write(text)
        f.flush()
        command = [args.ocelli, "tokenize", "-m", args.model, "-f", f.name, "--ids"]
        return len(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


def text_of_length(args, length):
    """The longest beginning of a run of words that has at most `length` tokens, BOS among them."""
    words = " ".join(f"word{i * 7 % 113}" for i in range(length))
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens(args, words[:middle]) <= length else (low, middle - 1)
    return words[:low]


def probe(args, prompt, folder):
    out = pathlib.Path(folder) / "probe.safetensors"
    command = [args.ocelli, "probe", "-m", args.model, "--raw", "-p", "-", "-n", str(args.steps), "-c", "4096"]
    command += ["-ctk", "f32", "-ctv", "f32", "--precision", "exact", "--overwrite", "-o", str(out)]
    done = subprocess.run(command, input=prompt, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    with safe_open(out, framework="np") as f:
        return {name: f.get_tensor(name) for name in f.keys()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", default="ocelli")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--engine", choices=["transformers", "numpy"], default="transformers")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1, 7, 200, 2000])
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--no-longrope", action="store_true")
    args = parser.parse_args()
    config = json.loads((pathlib.Path(args.checkpoint) / "config.json").read_text())
    engine = {"transformers": TransformersLlama, "numpy": NumpyLlama}[args.engine]
    reference = engine(args.checkpoint, config, not args.no_longrope)
    good = True
    for length in args.lengths:
        with tempfile.TemporaryDirectory() as folder:
            ours = probe(args, text_of_length(args, length), folder)
        theirs = reference.run(ours["ids"].tolist(), args.steps)
        equal = int((theirs.argmax(-1) == ours["tokens"]).sum())
        # Behind the first differing token the two no longer see the same input.
        same = args.steps if equal == args.steps else int((theirs.argmax(-1) != ours["tokens"]).argmax())
        diff = float(np.abs(theirs[: same + 1] - ours["logits"][: same + 1]).max())
        spread = float(theirs.max() - theirs.min())
        good &= diff < LIMIT and equal == args.steps
        print(f"{len(ours['ids']):5} tokens: max logit difference {diff:.2e} (logits span {spread:.1f}), "
              f"{equal} of {args.steps} greedy tokens equal")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
