#!/usr/bin/env python3
"""Trains the model on conversations that are made while it trains.

    python train.py --run DIR [--device cpu|cuda] [--threads 2] [--workers 1] [--hours 2] [--resume]
    python train.py --run DIR --resume --cooldown 40000

DIR gets the tokenizer, checkpoint.pt (weights, optimiser, progress) and log.jsonl. The learning rate rises, stays, and
with --cooldown falls to nothing over that many further conversations, after which the run is over; so a run can be
stopped, resumed and ended at any time. No conversation is used twice: the accuracy that is logged is that on pictures
never seen before, over the last --log seconds.
"""

import argparse
import collections
import json
import os
import pathlib
import signal
import time

import torch
import torch.nn.functional as F
from torch import nn

import batches
import export
import vocabulary
from model import Model


class Trainer(nn.Module):
    """The model, and heads that name what pictures show. Those are only a help while training: what there is to see
    becomes clear to tower and resampler long before the text model could tell them.

    On the tower: shape, colour and sign at each patch. On the resampler's rows: the first nine tell the shape, colour and
    size of the thing in each cell of a picture, the next eight the signs of a text in order.
    """

    def __init__(self):
        super().__init__()
        self.model = Model()
        c, kinds = self.model.config, batches.KINDS
        heads = lambda width, names: nn.ModuleDict({name: nn.Linear(width, kinds[name]) for name in names})
        self.patch_heads = heads(c.tower_size, ["shape", "colour", "sign"])
        self.cell_heads = heads(c.hidden_size, ["shape", "colour", "size"])
        self.sign_head = heads(c.hidden_size, ["sign"])

    def forward(self, batch, help_weight):
        tower, rows, logits = self.model(batch.ids, batch.patches, batch.sizes, batch.at)
        logits = logits.float()
        loss = F.cross_entropy(logits, batch.targets)
        right = logits.detach().argmax(-1) == batch.targets
        helped = torch.zeros((), device=loss.device)
        if tower is not None and help_weight:
            cells = rows[:, : batches.CELLS]
            signs = rows[:, batches.CELLS : batches.CELLS + batches.LONGEST]
            helped = named(self.patch_heads, tower, batch.marks) + named(self.cell_heads, cells, batch.cells)
            helped = helped + named(self.sign_head, signs, batch.signs[..., None])
        return loss, helped, right


def named(heads, seen, classes):
    """The loss of heads that each name one of the classes in the last axis."""
    total = torch.zeros((), device=seen.device)
    for kind, head in enumerate(heads.values()):
        wanted = classes[..., kind]
        known = wanted != batches.UNKNOWN
        if known.any():
            total = total + F.cross_entropy(head(seen[known]).float(), wanted[known].long())
    return total


def answers_right(batch, right):
    """For every turn whether all its tokens are right."""
    wrong = torch.zeros(len(batch.tasks), device=right.device).index_add_(0, batch.turn, (~right).float())
    return (wrong == 0).tolist()


def parameter_groups(model, decay):
    plain = [p for p in model.parameters() if p.ndim < 2]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]


class Schedule:
    """Linear warm-up, a plateau, and from `begin` a linear fall over `length` conversations."""

    def __init__(self, peak, warmup, begin=None, length=0):
        self.peak, self.warmup, self.begin, self.length = peak, warmup, begin, length

    def rate(self, step, conversations):
        rate = self.peak * min(1.0, (step + 1) / self.warmup)
        if self.begin is not None:
            rate *= max(0.0, 1 - (conversations - self.begin) / self.length)
        return rate

    def over(self, conversations):
        return self.begin is not None and conversations >= self.begin + self.length


def save(path, value):
    partial = path.with_suffix(".part")
    torch.save(value, partial)
    os.replace(partial, path)


PROGRESS = ("step", "conversations", "drawn", "seconds", "cooldown")
"""What a checkpoint says of how far the run is; `drawn`: conversations up to here may have been used."""


class Run:
    def __init__(self, args):
        self.args, self.folder = args, args.run
        self.device = torch.device(args.device)
        torch.manual_seed(args.seed)
        self.trainer = Trainer().to(self.device)
        self.optimiser = torch.optim.AdamW(
            parameter_groups(self.trainer, args.decay), lr=args.rate, betas=(0.9, 0.98), fused=True
        )
        self.step = self.conversations = self.drawn = 0
        self.seconds, self.cooldown = 0.0, None
        self.stop = False
        if args.resume:
            self.load()
        elif (self.folder / "checkpoint.pt").exists():
            raise SystemExit(f"{self.folder} holds a run: add --resume to go on with it, or choose another folder")
        else:
            vocabulary.write(self.folder)
            if args.init:
                export.load_weights(self.trainer.model, args.init, for_training=True)
        if args.cooldown and self.cooldown is None:
            self.cooldown = (self.conversations, args.cooldown)
        self.schedule = Schedule(args.rate, args.warmup, *(self.cooldown or ()))

    def load(self):
        state = torch.load(self.folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.trainer.load_state_dict(state["trainer"])
        self.optimiser.load_state_dict(state["optimiser"])
        for name in PROGRESS:
            setattr(self, name, state[name])

    def checkpoint(self):
        state = {name: getattr(self, name) for name in PROGRESS}
        state |= {"trainer": self.trainer.state_dict(), "optimiser": self.optimiser.state_dict()}
        save(self.folder / "checkpoint.pt", state)

    def one_step(self, batch):
        rate = self.schedule.rate(self.step, self.conversations)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            loss, helped, right = self.trainer(batch, self.args.help)
        (loss + self.args.help * helped).backward()
        norm = nn.utils.clip_grad_norm_(self.trainer.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        self.conversations += batch.conversations
        return loss, helped, right, norm

    def train(self):
        args = self.args
        per_chunk, before, workers = batches.Fresh.CHUNK * args.batch, self.conversations, max(args.workers, 1)
        first = -(-self.drawn // per_chunk)
        course = batches.Course(args.course)
        source = iter(batches.loader(self.folder, args.seed, args.batch, first, course, args.workers))
        begun = logged = saved = time.monotonic()
        window, elapsed = Window(), self.seconds
        while not self.stop and not self.schedule.over(self.conversations):
            waited = time.monotonic()
            batch = next(source).to(self.device)
            waited = time.monotonic() - waited
            window.add(batch, *self.one_step(batch), waited)
            # Every worker may be within a chunk: the next run begins behind all of those.
            rounds = 1 + (self.conversations - before) // (per_chunk * workers)
            self.drawn = (first + workers * rounds) * per_chunk
            now = time.monotonic()
            self.seconds = elapsed + now - begun
            if now - logged > args.log:
                self.log(window, now - logged)
                window, logged = Window(), now
            if now - saved > 60 * args.save:
                self.checkpoint()
                saved = now
            if args.hours and now - begun > 3600 * args.hours:
                break
        self.log(window, max(time.monotonic() - logged, 1e-9))
        self.checkpoint()

    def log(self, window, seconds):
        if not window.steps:
            return
        entry = {"step": self.step, "conversations": self.conversations, "hours": round(self.seconds / 3600, 4)}
        entry |= window.summary(seconds)
        entry["rate"] = self.optimiser.param_groups[0]["lr"]
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")
        tasks = " ".join(f"{name} {100 * share:.0f}" for name, share in entry["right"].items())
        progress = f"{entry['hours']:.2f} h, step {self.step}, {entry['per_second']:.1f}/s"
        print(f"{progress}: loss {entry['loss']:.3f} help {entry['help']:.3f} | {tasks}", flush=True)


class Window:
    """Means since the last line of the log."""

    def __init__(self):
        self.steps, self.conversations, self.waited = 0, 0, 0.0
        self.sums = torch.zeros(3)
        self.right, self.asked = collections.Counter(), collections.Counter()

    def add(self, batch, loss, helped, right, norm, waited):
        self.steps += 1
        self.conversations += batch.conversations
        self.waited += waited
        self.sums = self.sums.to(loss.device) + torch.stack([loss.detach(), helped.detach(), norm])
        for task, good in zip(batch.tasks, answers_right(batch, right)):
            self.asked[task] += 1
            self.right[task] += good

    def summary(self, seconds):
        loss, helped, norm = (self.sums / self.steps).tolist()
        return {
            "per_second": self.conversations / seconds,
            "waited": self.waited / seconds,
            "loss": loss,
            "help": helped,
            "norm": norm,
            "right": {task: round(self.right[task] / n, 4) for task, n in sorted(self.asked.items())},
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--init", type=pathlib.Path, help="begin with the weights of an exported folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on the CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that make conversations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=24, help="conversations in a step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--decay", type=float, default=0.05)
    parser.add_argument(
        "--help-weight", dest="help", type=float, default=0.3, help="weight of the heads that name what pictures show"
    )
    parser.add_argument(
        "--course", type=int, default=100_000, help="conversations over which pictures become as hard as in the test"
    )
    parser.add_argument("--cooldown", type=int, help="conversations over which the rate falls to nothing, from now")
    parser.add_argument("--hours", type=float, help="stop after so long")
    parser.add_argument("--log", type=float, default=60, help="seconds")
    parser.add_argument("--save", type=float, default=10, help="minutes between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(run, "stop", True))
    run.train()


if __name__ == "__main__":
    main()
