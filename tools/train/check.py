#!/usr/bin/env python3
"""Checks these tools against what they stand on: run it after a change. Takes about a minute.

    python check.py [--ocelli target/release/ocelli --model EXPORTED-DIR]

With --ocelli, the exported model is also converted to float32 files, and the prompt's ids, the pixels and the greedy
tokens of `ocelli probe` on pictures of every task compared with PyTorch's.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
import sentencepiece
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

import batches
import evaluate
import export
import generator
import prompts
import slicing
import vocabulary
from model import Model
from scene import COLOURS, SHAPES

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "parity"))


LEFT_OUT = ("video", "turns", "no-picture")
"""Tasks that `ocelli probe` has no options for."""


def same_conversation(a, b):
    return a.turns == b.turns and all(p.image.tobytes() == q.image.tobytes() for p, q in zip(a.pictures, b.pictures))


def check_generator():
    """The same index gives the same pictures and turns; another split, seed or index others. Every task can be made."""
    for task in [*generator.TASKS, None]:
        made = [generator.conversation("train", 3, index, task) for index in range(6)]
        for index, one in enumerate(made):
            assert one.turns and (one.pictures or task in ("no-picture", None)), task
            assert all(100 <= side <= 1000 for p in one.pictures for side in p.image.size), task
            assert same_conversation(one, generator.conversation("train", 3, index, task)), (task, index)
        others = [generator.conversation(*where, task) for where in [("held-out", 3, 0), ("train", 4, 0)]]
        assert task == "no-picture" or not any(same_conversation(made[0], other) for other in [*others, made[1]]), task


def check_truth():
    """What is labelled is what is drawn: a patch of one colour class has about that colour."""
    near = total = 0
    for index in range(120):
        made = generator.conversation("train", 5, index, "colour", sizes=(1, 0, 0))
        plans, slices = prompts.pictures([made.pictures[0].image], False)
        classes = batches.slice_classes(made.pictures[0], plans[0])[0].patches
        for patch, (shape, colour, *_) in zip(slices[0][2], classes):
            if shape and generator.SHAPES[shape - 1] == "circle":
                wanted = np.array(list(generator.COLOURS.values())[colour - 1])
                middle = patch.reshape(3, 14, 14)[:, 6:8, 6:8].mean((1, 2))
                near += np.abs(middle - wanted).max() < 60
                total += 1
    assert total > 100 and near / total > 0.9, (near, total)


def check_tokenizer(folder):
    """SentencePiece and tokenizer.json agree on every text, and what is read is spelled letter by letter."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    hf = Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = ["What", "Hello, 世界!", "a  b", "Whatever What Which", "naïve café"]
    for index in range(300):
        texts += [
            s for t in generator.conversation("train", 6, index, sizes=(1, 0, 0)).turns for s in (t.question, t.answer)
        ]
    for text in texts:
        assert sp.encode(text) == hf.encode(text, add_special_tokens=False).ids, text
    reader = prompts.Prompts(folder)
    ids, said = reader.ids([], False, [("Read the text.", "HOUSE42")])
    assert [hf.id_to_token(i) for i, s in zip(ids, said) if s == 0] == [*"HOUSE42", "<|im_end|>"]


def check_prompt(folder):
    """Ids put together from parts are those of the whole text of the chat template."""
    import jinja2

    template = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template).render
    reader = prompts.Prompts(folder)
    for index in range(60):
        made = generator.conversation("train", 7, index)
        plans, _ = prompts.pictures([p.image for p in made.pictures], made.is_video)
        ids, said = reader.ids(plans, made.is_video, [(t.question, t.answer) for t in made.turns])
        shown = "".join(prompts.place_holder(p, None if made.is_video else k) for k, p in enumerate(plans))
        messages = []
        for turn in made.turns:
            messages += [
                {"role": "user", "content": shown + turn.question},
                {"role": "assistant", "content": turn.answer},
            ]
            shown = ""
        assert ids == [1, *reader.tokenizer.encode(render(messages=messages), add_special_tokens=False).ids], index
        for number, turn in enumerate(made.turns):
            assert reader.text([i for i, s in zip(ids, said) if s == number and i != reader.end]).strip() == turn.answer


def check_slices():
    """Sizes and pixels are those of the parity programs, which restate the published rules."""
    import compare_images

    rng = np.random.default_rng(1)
    for _ in range(300):
        width, height = (int(n) for n in rng.integers(20, 1400, 2))
        for most in (1, 9):
            made = slicing.plan(width, height, most)
            options = (compare_images.REFERENCE, most, slicing.SCALE, slicing.PATCH, max(compare_images.ORDERS))
            got = (
                *made.overview,
                made.columns,
                made.rows,
                *made.tile,
                made.tile[0] * made.columns,
                made.tile[1] * made.rows,
                0,
                0,
            )
            assert got == compare_images.plan_reference(options, width, height), (width, height, most)


def check_model(folder, out):
    """The exported tensors are the architecture's, rounded to bf16, within the promised size, and can be read back."""
    torch.manual_seed(0)
    model = Model().eval()
    export.write(model, folder, out)
    assert (out / "model.safetensors").stat().st_size <= 16_000_000
    with safe_open(out / "model.safetensors", framework="pt") as f:
        shapes = {name: tuple(f.get_slice(name).get_shape()) for name in f.keys()}
        assert all(f.get_tensor(name).dtype == torch.bfloat16 for name in f.keys())
    c = model.config
    assert sum(int(np.prod(s)) for s in shapes.values()) <= 8_000_000
    assert len(shapes) == 9 * c.num_hidden_layers + 3 + 16 * c.tower_layers + 5 + 13
    assert shapes["vpm.embeddings.position_embedding.weight"] == (c.grid**2, c.tower_size)
    assert shapes["vpm.embeddings.patch_embedding.weight"] == (c.tower_size, 3, c.patch_size, c.patch_size)
    assert shapes["resampler.query"] == (c.query_num, c.hidden_size)
    again = Model().eval()
    export.load_weights(again, out, for_training=True)
    table = lambda m: m.vpm.embeddings.position_embedding.table()
    assert (table(model) - table(again)).abs().max() < 0.02
    export.load_weights(again, out)
    assert torch.equal(table(model).bfloat16().float(), table(again))


def check_phrases(folder):
    """Where a noun phrase ends is its last word, and what it means is where the labels say."""
    reader, pairs = prompts.Prompts(folder), 0
    for index in range(300):
        made = generator.conversation("train", 8, index, sizes=(1, 0, 0), longest=4)
        ids, said, _, _, labels = batches.prepare(reader, made, labelled=False)
        for turn, label in zip(made.turns, labels):
            assert len(turn.phrases) == len(label.phrases), turn.question
            for (phrase, things), (place, cells) in zip(turn.phrases, label.phrases):
                assert phrase.endswith(reader.text([ids[place]]).strip()), (turn.question, phrase)
                known = all(thing.size for thing in things)
                assert not known or [c for c in range(batches.CELLS) if cells[c]] == sorted(t.cell for t in things)
            pairs += len(turn.phrases) == 2
    assert pairs > 20, pairs


def check_tallies(folder):
    """The tally stands behind the rows of the first overview and counts what the picture shows; no count is asked twice."""
    reader, counted = prompts.Prompts(folder), 0
    for index in range(100):
        made = generator.counts(random.Random(index), (0.5, 0.5, 0))
        if not made.turns:
            continue
        batch = batches.collate([batches.prepare(reader, made)])
        assert reader.tokenizer.id_to_token(int(batch.ids.flatten()[batch.tally_at[0]])) == "</image>"
        things, shapes = made.pictures[0].things, batch.tallies[0, : len(SHAPES)].tolist()
        assert shapes == [sum(t.shape == shape for t in things) for shape in SHAPES]
        assert batch.tallies[0, len(SHAPES) :].tolist() == [sum(t.colour == colour for t in things) for colour in COLOURS]
        turns = [t for t in made.turns if t.task == "count"]
        assert all(t.answer == str(len(t.meant)) for t in turns)
        assert len({frozenset(t.cell for t in turn.meant) for turn in turns}) == len(turns)
        counted += len(turns)
    assert counted > 250, counted


def check_padding(folder):
    """A conversation's logits don't depend on what it is batched with."""
    torch.manual_seed(0)
    reader, turn = prompts.Prompts(folder), generator.Turn("outside", "Who are you?", "x")
    model = Model().eval()
    rng, items = np.random.default_rng(1), []
    for number, (rows, columns) in enumerate([(10, 10), (8, 12), (7, 9)]):
        ids = [1, 5, *[0] * prompts.QUERIES, *range(300, 304 + number)]
        said = [-1] * (len(ids) - 1) + [0]
        slices = [(rows, columns, rng.integers(0, 256, (rows * columns, 588), np.uint8))]
        items.append((ids, said, slices, [], [batches.labels_of(reader, turn, said.index(0))]))
    logits = lambda batch: model(batch.ids, batch.patches, batch.sizes, batch.at)[2]
    with torch.no_grad():
        together = logits(batches.collate(items))
        apart = torch.cat([logits(batches.collate([item])) for item in items])
    assert (together - apart).abs().max() < 1e-4


def check_ocelli(ocelli, folder):
    """Ids and greedy tokens of the converted model."""
    answerer, steps, equal = evaluate.Answerer(folder), 12, 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        command = [
            ocelli,
            "convert",
            str(folder),
            "--outtype",
            "F32",
            "--vision-outtype",
            "f32",
            "--outdir",
            str(scratch),
            "--name",
            "m",
        ]
        subprocess.run(command, check=True, capture_output=True)
        text = next(p for p in scratch.glob("*.gguf") if not p.name.startswith("mmproj"))
        vision = next(scratch.glob("mmproj*.gguf"))
        for task in [t for t in generator.TASKS if t not in LEFT_OUT]:
            made = generator.conversation("held-out", 11, 0, task)
            command = [
                ocelli,
                "probe",
                "-m",
                str(text),
                "--mmproj",
                str(vision),
                "-n",
                str(steps),
                "--precision",
                "exact",
            ]
            command += [
                "-ctk",
                "f32",
                "-ctv",
                "f32",
                "-t",
                "1",
                "--overwrite",
                "-o",
                str(scratch / "out.safetensors"),
                "-p",
                made.turns[0].question,
            ]
            for number, picture in enumerate(made.pictures):
                picture.image.save(scratch / f"{number}.png")
                command += ["--image", str(scratch / f"{number}.png")]
            subprocess.run(command, check=True, capture_output=True)
            plans, slices = prompts.pictures([p.image for p in made.pictures], False)
            ids, _ = answerer.reader.ids(plans, False, [(made.turns[0].question, None)])
            rows, theirs, tokens = answerer.rows(slices), list(ids), []
            for _ in range(steps):
                tokens += answerer.next(theirs, rows)
                theirs.append(tokens[-1])
            with safe_open(scratch / "out.safetensors", framework="np") as f:
                ours = {name: f.get_tensor(name) for name in ("ids", "tokens")}
                far = max(
                    float(np.abs(f.get_tensor(f"slices.{k}.emb") - rows[k].numpy()).max()) for k in range(len(slices))
                )
            assert ours["ids"].tolist() == ids, task
            assert far < 1e-3 * float(rows.abs().max()), (task, far)
            same = next((i for i, (a, b) in enumerate(zip(ours["tokens"], tokens)) if a != b), steps)
            equal += same == steps
            print(f"  {task:12} {len(slices):2} slices, rows differ by {far:.1e}, {same} of {steps} tokens equal")
    assert equal == len(generator.TASKS) - len(LEFT_OUT), equal


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli")
    parser.add_argument("--model", type=pathlib.Path, help="exported folder; freshly initialised weights if not given")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        vocabulary.write(folder / "tokenizer")
        steps = {
            "generator": check_generator,
            "truth of the patches' classes": check_truth,
            "tokenizer": lambda: check_tokenizer(folder / "tokenizer"),
            "prompts": lambda: check_prompt(folder / "tokenizer"),
            "slices": check_slices,
            "export": lambda: check_model(folder / "tokenizer", folder / "model"),
            "phrases": lambda: check_phrases(folder / "tokenizer"),
            "tallies": lambda: check_tallies(folder / "tokenizer"),
            "padding": lambda: check_padding(folder / "tokenizer"),
        }
        if args.ocelli:
            steps["ocelli"] = lambda: check_ocelli(args.ocelli, args.model or folder / "model")
        for name, step in steps.items():
            step()
            print(f"{name}: good", flush=True)


if __name__ == "__main__":
    main()
