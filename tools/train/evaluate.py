#!/usr/bin/env python3
"""Share of exactly right answers by task, of an exported folder, with PyTorch in float32.

    python generator.py --out DATA
    python evaluate.py --model DIR --data DATA/data.jsonl [--limit 50] [--tasks …] [--json] [--answers FILE]

The answers are had by greedy decoding, turn by turn, each turn after the model's own answers before it. --answers writes
every answer as a line of JSON; --record writes the questions again with the model's answers as the right ones, for tests of
another implementation.
"""

import argparse
import collections
import json
import pathlib
import sys

import torch
from PIL import Image

import batches
import export
import prompts
from model import Model

LONGEST = 64
"""Tokens of an answer, at most."""


class Answerer:
    def __init__(self, folder, device="cpu"):
        self.reader, self.device = prompts.Prompts(folder), device
        self.model = Model()
        export.load_weights(self.model, folder)
        self.model.eval().to(device)

    @torch.no_grad()
    def rows(self, slices):
        batch = batches.collate([([2], [-1], slices, [], [])])
        return self.model.see(batch.patches.to(self.device), batch.sizes.to(self.device))[1]

    @torch.no_grad()
    def next(self, ids, rows, count=1):
        """The most probable ids behind each of the last `count` of `ids`."""
        ids = torch.tensor([ids], device=self.device)
        logits = self.model.llm.logits(self.model.embed(ids, rows), list(range(-count, 0)))
        return logits.argmax(-1).tolist()

    def answer(self, ids, rows, guess):
        """Greedy ids after the prompt `ids`, up to the end of the turn. A right guess takes one pass, a wrong one changes
        nothing."""
        best = self.next([*ids, *guess], rows, len(guess) + 1)
        kept = next((i for i, (a, b) in enumerate(zip(guess, best)) if a != b), len(guess))
        given, then = list(guess[:kept]), best[kept]
        while then not in (2, self.reader.end) and len(given) < LONGEST:
            given.append(then)
            then = self.next([*ids, *given], rows)[0]
        return given

    def converse(self, images, is_video, questions, expected):
        """The answers to `questions` in turn; the expected ones only save time."""
        plans, slices = prompts.pictures(images, is_video)
        rows, turns = self.rows(slices) if slices else None, []
        for question, likely in zip(questions, expected):
            ids, _ = self.reader.ids(plans, is_video, [*turns, (question, None)])
            told, said = self.reader.ids(plans, is_video, [*turns, (question, likely)])
            guess = [i for i, turn in zip(told, said) if turn == len(turns)][:-1]
            turns.append((question, self.reader.text(self.answer(ids, rows, guess)).strip()))
        return [answer for _, answer in turns]


def records(path, limit, tasks):
    """Records of the file, at most `limit` of each task."""
    taken = collections.Counter()
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            if (not tasks or record["task"] in tasks) and (limit is None or taken[record["task"]] < limit):
                taken[record["task"]] += 1
                yield record


def show_progress(done):
    if sys.stderr.isatty():
        print(f"\r{done} conversations", end="", file=sys.stderr, flush=True)


def evaluate(answerer, data, limit=None, tasks=(), answers=None, record_to=None):
    """(right, asked) turns by task."""
    right, asked = collections.Counter(), collections.Counter()
    for done, record in enumerate(records(data, limit, tasks), 1):
        is_video = "video" in record
        images = [Image.open(data.parent / name).convert("RGB") for name in record["video" if is_video else "images"]]
        given = answerer.converse(
            images,
            is_video,
            [turn["question"] for turn in record["turns"]],
            [turn["answers"][0] for turn in record["turns"]],
        )
        asked[record["task"]] += len(given)
        right[record["task"]] += sum(a in turn["answers"] for a, turn in zip(given, record["turns"]))
        if answers:
            answers.write(json.dumps({"id": record["id"], "answers": given}, ensure_ascii=False) + "\n")
        if record_to:
            turns = [turn | {"answers": [answer]} for turn, answer in zip(record["turns"], given)]
            record_to.write(json.dumps(record | {"turns": turns}, ensure_ascii=False) + "\n")
        show_progress(done)
    return right, asked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, help="conversations of each task")
    parser.add_argument("--tasks", nargs="+", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--answers", type=pathlib.Path)
    parser.add_argument("--record", type=pathlib.Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    answers = open(args.answers, "w", encoding="utf-8") if args.answers else None
    record_to = open(args.record, "w", encoding="utf-8") if args.record else None
    right, asked = evaluate(Answerer(args.model, args.device), args.data, args.limit, args.tasks, answers, record_to)
    for file in filter(None, (answers, record_to)):
        file.close()
    table = {task: {"right": right[task], "asked": n, "share": right[task] / n} for task, n in asked.items()}
    if args.json:
        print(json.dumps(table, indent=1))
    else:
        for task, row in table.items():
            print(f"{task:12} {row['right']:5} of {row['asked']:5}  {100 * row['share']:6.2f} %")


if __name__ == "__main__":
    main()
