#!/usr/bin/env python3
"""Compares a whole prompt with pictures, from the files to the greedy answer, with a float32 reference.

    python compare_conversation.py --ocelli target/release/ocelli --checkpoint DIR --model FILE.gguf --mmproj FILE.gguf \
        [--steps 32] [--cases one two five sliced tall grey]

CHECKPOINT is a Hugging Face folder (for example from `ocelli synth`), the other two what `ocelli convert --outtype F32
--vision-outtype f32` made of it. `ocelli probe --precision exact` runs; the reference is, stage by stage,

* pixels: Pillow, with the published rules restated in compare_images.py;
* ids: the checkpoint's own tokenizer.json (transformers' LlamaTokenizerFast) on the placeholders' full text;
* tower and resampler: vision_reference.py, on the reference's pixels;
* text: LlamaForCausalLM in float32 on one matrix of embeddings in which image rows replace those of `<unk>`.

Exit status 1 unless pixels, ids and greedy tokens are equal, image rows agree within 2e-4 of their largest value and
logits within 5e-3.
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

import compare_images
import vision_reference
from compare_with_reference import TransformersLlama

EMB, LOGITS = 2e-4, 5e-3
CASES = {
    "one": [(300, 200)],
    "two": [(224, 224), (448, 300)],
    "five": [(120, 90), (64, 64), (300, 260), (90, 200), (256, 100)],
    "sliced": [(900, 700)],
    "mixed": [(1000, 400), (100, 100), (500, 1200)],
    "tall": [(240, 1300)],
}


def special_tokens(text, queries, plan, number):
    """The text that stands for one picture."""
    rows = "<unk>" * queries
    out = f"<image_id>{number}</image_id><image>{rows}</image>"
    columns, lines = plan[2], plan[3]
    return out + "\n".join(f"<slice>{rows}</slice>" * columns for _ in range(lines)) if columns else out


class Reference:
    def __init__(self, folder):
        from transformers import PreTrainedTokenizerFast

        self.folder = pathlib.Path(folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(self.folder / "tokenizer.json"))
        self.template = json.loads((self.folder / "tokenizer_config.json").read_text())["chat_template"]
        self.vision = vision_reference.Reference(folder, "reference")
        self.text = TransformersLlama(folder, self.config, True)

    def run(self, paths, question, steps):
        config = self.config
        order = max(compare_images.ORDERS)
        options = (compare_images.REFERENCE, 9, config["image_size"], config["patch_size"], order)
        slices, content = [], ""
        for number, path in enumerate(paths):
            pixels = np.asarray(Image.open(path).convert("RGB"))
            plan = compare_images.plan_reference(options, pixels.shape[1], pixels.shape[0])
            slices += compare_images.slice_pillow(options, pixels)
            content += special_tokens("", config["query_num"], plan, number) + "\n"
        import jinja2

        messages = [{"role": "user", "content": content + question}]
        environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(self.template).render(messages=messages, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if ids[0] != 1:
            ids = [1, *ids]
        stages = [self.vision.run(pixels) for pixels in slices]
        rows = torch.cat([emb for _, emb in stages])
        return slices, ids, stages, self.answer(ids, rows, steps)

    @torch.no_grad()
    def answer(self, ids, rows, steps):
        model, ids = self.text.model, torch.tensor(ids)
        x = model.get_input_embeddings()(ids).clone()
        starts = [self.tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "<slice>")]
        at = [i for i in range(len(ids)) if ids[i] == 0 and self.inside(ids, i, starts)]
        assert len(at) == len(rows), (len(at), len(rows))
        x[at] = rows
        logits, cache = [], None
        inputs = {"inputs_embeds": x[None]}
        for _ in range(steps):
            out = model(**inputs, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            logits.append(out.logits[0, -1].numpy())
            inputs = {"input_ids": out.logits[0, -1].argmax().reshape(1, 1)}
        return np.stack(logits)

    @staticmethod
    def inside(ids, i, starts):
        while ids[i] == 0:
            i -= 1
        return int(ids[i]) in starts


def probe(args, paths, question, folder):
    out = pathlib.Path(folder) / "probe.safetensors"
    command = [args.ocelli, "probe", "-m", args.model, "--mmproj", args.mmproj, "-p", question, "-n", str(args.steps)]
    command += ["-c", "8192", "-ctk", "f32", "-ctv", "f32", "--precision", "exact", "--overwrite", "-o", str(out)]
    for path in paths:
        command += ["--image", str(path)]
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    with safe_open(out, framework="np") as f:
        return {name: f.get_tensor(name) for name in f.keys()}


def compare(ours, theirs):
    """Names what differs, and how far the rest is apart."""
    slices, ids, stages, logits = theirs
    wrong = []
    if sum(name.endswith(".pixels") for name in ours) != len(slices):
        wrong.append("number of slices")
    elif not all(np.array_equal(ours[f"slices.{k}.pixels"], s) for k, s in enumerate(slices)):
        wrong.append("pixels")
    if ours["ids"].tolist() != list(ids):
        wrong.append(f"ids ({len(ours['ids'])} and {len(ids)})")
    far = {"vit": 0.0, "emb": 0.0}
    for k, stage in enumerate(stages):
        for name, b in zip(far, stage):
            a, b = ours[f"slices.{k}.{name}"], b.numpy()
            far[name] = max(far[name], float(np.abs(a - b).max() / np.abs(b).max()))
    equal = int((logits.argmax(-1) == ours["tokens"]).sum())
    same = len(logits) if equal == len(logits) else int((logits.argmax(-1) != ours["tokens"]).argmax()) + 1
    diff = float(np.abs(logits[:same] - ours["logits"][:same]).max())
    if far["emb"] > EMB or diff > LOGITS or equal != len(logits):
        wrong.append("values")
    return wrong, far, diff, equal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", default="ocelli")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--cases", nargs="+", default=list(CASES))
    args = parser.parse_args()
    reference, rng, good = Reference(args.checkpoint), np.random.default_rng(5), True
    for case in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            paths = []
            for i, (w, h) in enumerate(CASES[case]):
                paths.append(pathlib.Path(folder) / f"{i}.png")
                # That pattern comes in whole blocks of 7 pixels.
                pixels = vision_reference.picture(w + 6 - (w - 1) % 7, h + 6 - (h - 1) % 7, rng)[:h, :w]
                Image.fromarray(np.ascontiguousarray(pixels)).save(paths[-1])
            question = "Describe what you see in 3 words."
            theirs = reference.run(paths, question, args.steps)
            wrong, far, diff, equal = compare(probe(args, paths, question, folder), theirs)
        good &= not wrong
        print(f"{case:7} {len(CASES[case])} pictures, {len(theirs[0]):2} slices, {len(theirs[1]):4} ids: "
              f"vit {far['vit']:.1e}, emb {far['emb']:.1e}, logits {diff:.1e}, {equal} of {args.steps} greedy tokens"
              f"{'; DIFFERENT: ' + ', '.join(wrong) if wrong else ''}", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
