#!/usr/bin/env python3
"""Trains the model on conversations that are made while it trains.

    python train.py --run DIR --stage see [--device cpu|cuda] [--threads 2] [--workers 1] [--hours 1]
    python train.py --run DIR --resume --stage tell|all …
    python train.py --run DIR --resume --cooldown 40000

DIR gets the tokenizer, checkpoint.pt (weights, optimisers, progress) and log.jsonl. Stages: `see` trains tower and
resampler to name what pictures show, `tell` the text model on what those see, `all` everything together. The learning
rate rises, stays, and with --cooldown falls to nothing over that many further conversations, after which the run is over;
so a run can be stopped, resumed and ended at any time. No conversation is used twice: the accuracy that is logged is that
on pictures never seen before, over the last --log seconds.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import time

import torch
import torch.distributed as group
import torch.nn.functional as F
from torch import nn

import batches
import export
import generator
import prompts
import vocabulary
from model import Model
from muon import Muon
from scene import COLOURS, SHAPES, SIZES


class Trainer(nn.Module):
    """The model, and heads that name what pictures show. Those are only a help while training: what there is to see
    becomes clear to tower and resampler long before the text model could tell them.

    On the tower's second layer: which parts of each patch stand out from the background. On the tower: shape, colour and
    sign at each patch, and which sign of its line that is. On the resampler's rows: the first nine tell the shape, colour and
    size of the thing in each cell of a picture, the next eight the signs of a text in order; each tells its number too.

    On the text model's second and third layer: behind the first picture, how many things have each shape and each colour;
    where a noun phrase ends, in which cells the things are that the phrase means, and on the third how many they are. On
    its third, where an answer begins: all about the thing that is asked about, what is claimed of it, and in which cells the
    things are that are meant; on its fourth how many those are, and the cells of two things that are compared.
    """

    def __init__(self):
        super().__init__()
        self.model = Model()
        c, kinds = self.model.config, batches.KINDS
        heads = lambda width, names: nn.ModuleDict({name: nn.Linear(width, kinds[name]) for name in names})
        self.patch_heads = heads(c.tower_size, ["shape", "colour", "sign", "order"])
        self.part_head = nn.Linear(c.tower_size, batches.PARTS)
        self.cell_heads = heads(c.hidden_size, ["shape", "colour", "size", "place"])
        self.about_heads = heads(c.hidden_size, ["shape", "colour", "size", "place", "claim"])
        self.meant_head = nn.Linear(c.hidden_size, batches.CELLS)
        self.phrase_heads = nn.ModuleDict({str(n): nn.Linear(c.hidden_size, batches.CELLS) for n in (2, 3)})
        self.pair_heads = nn.ModuleDict({name: nn.Linear(c.hidden_size, kinds["place"]) for name in ("first", "second")})
        self.tally_heads = nn.ModuleDict({str(n): nn.Linear(c.hidden_size, batches.TALLIED) for n in (2, 3)})
        self.amount_heads = nn.ModuleDict({name: nn.Linear(c.hidden_size, NUMBERS) for name in ("phrase", "meant")})
        several = [self.about_heads, self.phrase_heads, self.pair_heads, self.tally_heads, self.amount_heads]
        for head in [self.meant_head, *(head for heads_of_one in several for head in heads_of_one.values())]:
            nn.init.zeros_(head.weight)
        self.sign_heads = heads(c.hidden_size, ["sign", "place"])

    def forward(self, batch, stage):
        """(loss of what is told, loss of what is named, which tokens are right, which names are right)."""
        tower, rows = None, None
        if len(batch.patches):
            with torch.set_grad_enabled(stage != "tell"):
                tower, rows = self.model.see(batch.patches, batch.sizes)
        told, right = torch.zeros(()), None
        if stage != "see":
            logits = self.model.llm.logits(self.model.embed(batch.ids, rows), batch.at).float()
            told = (F.cross_entropy(logits, batch.targets, reduction="none") * batch.weights).sum()
            right = logits.detach().argmax(-1) == batch.targets
        named, names = torch.zeros(()), {}
        if stage != "see" and batch.turn.numel():
            meant = self.model.llm.given_at(3, batch.begins)
            named = named + 0.4 * naming("about", self.about_heads, meant, batch.about, names)
            named = named + pointing("meant", self.meant_head(meant), batch.meant, names)
            named = named + 0.4 * naming("pair", self.pair_heads, self.model.llm.given_at(4, batch.begins), batch.pair, names)
            for layer, head in self.phrase_heads.items():
                out = head(self.model.llm.given_at(int(layer), batch.phrase_ends))
                named = named + 0.5 * pointing(f"phrase-{layer}", out, batch.phrases, names)
            of_phrases = self.amount_heads["phrase"](self.model.llm.given_at(3, batch.phrase_ends))
            of_meant = self.amount_heads["meant"](self.model.llm.given_at(4, batch.begins))
            named = named + 0.5 * amounting("amount-phrase", of_phrases, batch.phrases, names)
            named = named + 0.5 * amounting("amount-meant", of_meant, batch.meant, names)
        if stage != "see" and batch.tallies.numel():
            for layer, head in self.tally_heads.items():
                out = head(self.model.llm.given_at(int(layer), batch.tally_at))
                named = named + tallying(layer, out, batch.tallies, names)
        if stage != "tell" and rows is not None:
            cells, behind = batches.CELLS, batches.CELLS + batches.LONGEST
            named = named + outlining(self.part_head(self.model.vpm.early), batch.parts, names)
            named = named + naming("patch", self.patch_heads, tower, batch.marks, names)
            named = named + naming("cell", self.cell_heads, rows[:, :cells], batch.cells, names)
            named = named + naming("text", self.sign_heads, rows[:, cells:behind], batch.signs, names)
        return told, named, right, names


NUMBERS = 1 + batches.CELLS
"""Of things in a picture: none to one in each cell."""

BACKGROUND = 0.25
"""Weight of the class "nothing", which most patches and cells are."""


def outlining(out, wanted, names):
    """The loss of what tells which parts of a patch stand out; more than half of a patch's parts rarely do."""
    known = wanted != batches.UNKNOWN
    if not known.any():
        return torch.zeros((), device=out.device)
    out, wanted = out[known].float(), wanted[known].float()
    names["parts"] = ((out.detach() > 0) == (wanted > 0))[wanted > 0]
    return 3 * F.binary_cross_entropy_with_logits(out, wanted)


def pointing(name, out, wanted, names):
    """The loss of what tells in which cells the things are that are meant; names are right as a whole."""
    known = wanted[:, 0] != batches.UNKNOWN
    if not known.any():
        return torch.zeros((), device=out.device)
    out, wanted = out[known].float(), wanted[known].float()
    names[name] = ((out.detach() > 0) == (wanted > 0)).all(1)
    return 2 * F.binary_cross_entropy_with_logits(out, wanted)


def amounting(name, out, cells, names):
    """The loss of what tells how many things are meant."""
    known = cells[:, 0] != batches.UNKNOWN
    if not known.any():
        return torch.zeros((), device=out.device)
    out, wanted = out[known].float(), cells[known].sum(1)
    names[name] = (out.detach().argmax(-1) == wanted)[wanted > 1]
    return F.cross_entropy(out, wanted)


def tallying(layer, out, wanted, names):
    """The loss of what tells how many things have each shape and colour: squares, so that numbers are a direction."""
    out = out.float()
    names[f"tally-{layer}"] = (out.detach().round() == wanted)[wanted > 1]
    weight = torch.where(wanted > 0, 1.0, BACKGROUND)
    return (weight * (out - wanted) ** 2).mean()


def naming(where, heads, seen, classes, names):
    """The loss of heads that each name one of the classes in the last axis; which things were named rightly to `names`."""
    total = torch.zeros((), device=seen.device)
    for kind, (name, head) in enumerate(heads.items()):
        wanted = classes[..., kind]
        known = wanted != batches.UNKNOWN
        if known.any():
            wanted, out = wanted[known].long(), head(seen[known]).float()
            weight = torch.ones(out.shape[-1], device=seen.device)
            weight[0] = BACKGROUND
            total = total + F.cross_entropy(out, wanted, weight)
            names[f"{where}-{name}"] = (out.detach().argmax(-1) == wanted)[wanted > 0]
    return total


def answers_right(batch, right):
    """For every turn whether all its tokens are right."""
    wrong = torch.zeros(len(batch.tasks), device=right.device).index_add_(0, batch.turn, (~right).float())
    return (wrong == 0).tolist()


BY_MUON = ("patch_embedding", "encoder.layers.", "resampler.kv_proj", "resampler.attn.", "resampler.proj", "llm.model.layers.")
"""In the names of matrices that Muon moves: those between hidden states."""


def optimisers(trainer, stage, rate, decay):
    """Muon for the matrices between hidden states, AdamW for everything else; only what the stage trains."""
    matrices, tables, plain = [], [], []
    for name, parameter in trainer.named_parameters():
        is_text = name.startswith(OF_TEXT)
        if (is_text and stage == "see") or (not is_text and stage == "tell"):
            continue
        if parameter.ndim != 1 and any(part in name for part in BY_MUON):
            matrices.append(parameter)
        else:
            (tables if parameter.ndim >= 2 else plain).append(parameter)
    groups = [{"params": tables, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return {
        "muon": Muon(matrices, lr=2 * rate, weight_decay=decay),
        "adamw": torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True),
    }


@torch.no_grad()
def begin_text(trainer, tokenizer):
    """Begins the text model with what was seen: words for shapes, colours, sizes and signs look like the rows that show
    them, and in the middle layers the first of the queries' heads that share keys looks like those keys. So a word finds
    what it names before anything is learnt; from random weights that alone takes as long as everything behind it."""
    text, width = trainer.model.llm.model, trainer.model.config.head_dim
    words = {"shape": SHAPES, "colour": list(COLOURS), "size": list(SIZES)}
    pieces = {kind: [f"▁{word}" for word in names] for kind, names in words.items()} | {"sign": batches.CHARACTERS}
    for kind, names in pieces.items():
        heads = trainer.sign_heads if kind == "sign" else trainer.cell_heads
        weight = heads[kind].weight
        looks = F.normalize(weight - weight.mean(0), dim=1)[1:]
        for name, look in zip(names, looks):
            also = [name, name + "s", name + "es"] if kind == "shape" else [name]
            for token in filter(None, map(tokenizer.token_to_id, also)):
                row = text.embed_tokens.weight[token]
                row.copy_(0.5 * row + 0.8 * row.norm() * look)
    for layer in text.layers[1:-1]:
        attention = layer.self_attn
        shared = attention.heads // attention.kv_heads
        for head in range(attention.kv_heads):
            query = attention.q_proj.weight[shared * head * width :][:width]
            attention.k_proj.weight[head * width :][:width] = query


OF_TEXT = ("model.llm.", "about_heads.", "meant_head.", "phrase_heads.", "pair_heads.", "tally_heads.", "amount_heads.")
"""Beginnings of the names of what stage `tell` trains."""


class Rounded:
    """Within it the text model's matrices are rounded to 4 bits in blocks of 32, about as Q4_K does; gradients are had at
    the rounded weights and applied to the exact ones. A model that small would otherwise lose several points to Q4_K_M."""

    def __init__(self, model, active):
        self.matrices = [p for p in model.llm.parameters() if p.ndim == 2] if active else []

    def __enter__(self):
        self.exact = [p.data for p in self.matrices]
        for p in self.matrices:
            blocks = p.data.view(-1, 32)
            low, high = blocks.amin(1, keepdim=True).clamp(max=0), blocks.amax(1, keepdim=True)
            step = (high - low).clamp(min=1e-9) / 15
            p.data = (((blocks - low) / step).round_() * step + low).view_as(p.data)

    def __exit__(self, *_):
        for p, exact in zip(self.matrices, self.exact):
            p.data = exact


class Schedule:
    """Linear warm-up, a plateau, and from `begin` a linear fall over `length` conversations; as a share of the rate."""

    def __init__(self, warmup, begin=None, length=0):
        self.warmup, self.begin, self.length = warmup, begin, length

    def share(self, step, conversations):
        share = min(1.0, (step + 1) / self.warmup)
        if self.begin is not None:
            share *= max(0.0, 1 - (conversations - self.begin) / self.length)
        return share

    def over(self, conversations):
        return self.begin is not None and conversations >= self.begin + self.length


def save(path, value):
    partial = path.with_suffix(".part")
    torch.save(value, partial)
    os.replace(partial, path)


STEPS_APART = 16
"""Steps that processes take before they share their weights."""

PROGRESS = ("step", "stage_step", "conversations", "drawn", "seconds", "cooldown")
"""What a checkpoint says of how far the run is; `drawn`: conversations up to here may have been used."""


class Run:
    def __init__(self, args):
        self.args, self.folder = args, args.run
        self.device = torch.device(args.device)
        self.rank, self.ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        torch.manual_seed(args.seed)
        random.seed(args.seed)
        self.trainer = Trainer().to(self.device)
        self.optimisers = optimisers(self.trainer, args.stage, args.rate, args.decay)
        self.groups = [part for optimiser in self.optimisers.values() for part in optimiser.param_groups]
        self.rates = [part["lr"] for part in self.groups]
        self.step = self.stage_step = self.conversations = self.drawn = 0
        self.seconds, self.cooldown = 0.0, None
        self.stop = False
        if args.resume:
            self.load()
        elif (self.folder / "checkpoint.pt").exists():
            raise SystemExit(f"{self.folder} holds a run: add --resume to go on with it, or choose another folder")
        else:
            if self.rank == 0:
                vocabulary.write(self.folder)
            self.meet()
            if args.init:
                export.load_weights(self.trainer.model, args.init, for_training=True)
        if args.cooldown and self.cooldown is None:
            self.cooldown = (self.conversations, args.cooldown)
        self.schedule = Schedule(args.warmup, *(self.cooldown or ()))

    def stopped(self):
        """Whether any of the processes is to stop. Several processes meet every few steps, and then share their weights too:
        meeting in every step would cost a fifth of the time."""
        if self.ranks == 1:
            return self.stop
        if self.step % STEPS_APART:
            return False
        self.share_weights()
        wish = torch.tensor(float(self.stop))
        group.all_reduce(wish)
        return bool(wish)

    def meet(self):
        """Waits for the other processes."""
        if self.ranks > 1:
            group.barrier()

    def share_weights(self):
        """Gives every process the mean of all weights."""
        parameters = list(self.trainer.parameters())
        all_of_them = torch.cat([p.data.flatten() for p in parameters]) / self.ranks
        group.all_reduce(all_of_them)
        for p, mean in zip(parameters, all_of_them.split([p.numel() for p in parameters])):
            p.data.copy_(mean.view_as(p))

    def load(self):
        state = torch.load(self.folder / "checkpoint.pt", map_location=self.device, weights_only=True)
        self.trainer.load_state_dict(state["trainer"], strict=False)
        for name in PROGRESS:
            setattr(self, name, state[name])
        if state["stage"] == self.args.stage:
            for name, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state["optimisers"][name])
        else:
            self.stage_step = 0
            if state["stage"] == "see":
                begin_text(self.trainer, prompts.Prompts(self.folder).tokenizer)

    def checkpoint(self):
        if self.rank:
            return
        state = {name: getattr(self, name) for name in PROGRESS}
        state |= {"trainer": self.trainer.state_dict(), "stage": self.args.stage}
        state["optimisers"] = {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()}
        save(self.folder / "checkpoint.pt", state)

    def one_step(self, batch):
        self.share = self.schedule.share(self.stage_step, self.conversations)
        for part, rate in zip(self.groups, self.rates):
            part["lr"] = rate * self.share
        with Rounded(self.trainer.model, random.random() < self.args.rounded):
            with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
                told, named, right, names = self.trainer(batch, self.args.stage)
            loss = told + (1.0 if self.args.stage == "see" else self.args.help) * named
            if loss.requires_grad:
                loss.backward()
        parameters = [p for part in self.groups for p in part["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.trainer.zero_grad()
        self.step += 1
        self.stage_step += 1
        self.conversations += batch.conversations * self.ranks
        return told, named, right, names

    def train(self):
        args = self.args
        per_chunk, before = batches.Fresh.CHUNK * args.batch, self.conversations
        workers = max(args.workers, 1) * self.ranks
        first = -(-self.drawn // per_chunk)
        course = batches.Course(args.course, args.tiles)
        source = iter(batches.loader(self.folder, args.seed, args.batch, first, course, args.workers, self.rank, self.ranks))
        begun = logged = saved = time.monotonic()
        window, elapsed = Window(), self.seconds
        while not self.stopped() and not self.schedule.over(self.conversations):
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
                self.stop = True
        if self.ranks > 1:
            self.share_weights()
        self.log(window, max(time.monotonic() - logged, 1e-9))
        self.checkpoint()

    def log(self, window, seconds):
        if not window.steps or self.rank:
            return
        entry = {"stage": self.args.stage, "step": self.step, "conversations": self.conversations}
        entry |= {"hours": round(self.seconds / 3600, 4)} | window.summary(seconds, self.ranks) | {"rate": self.share}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as out:
            out.write(json.dumps(entry) + "\n")
        shares = " ".join(f"{name} {100 * share:.0f}" for name, share in entry["right"].items())
        progress = f"{entry['hours']:.2f} h, {self.conversations} done, {entry['per_second']:.1f}/s"
        print(f"{progress}: told {entry['told']:.3f} named {entry['named']:.3f} | {shares}", flush=True)


class Window:
    """Means since the last line of the log."""

    def __init__(self):
        self.steps, self.conversations, self.waited = 0, 0, 0.0
        self.sums = torch.zeros(2)
        self.right, self.asked = collections.Counter(), collections.Counter()

    def add(self, batch, told, named, right, names, waited):
        self.steps += 1
        self.conversations += batch.conversations
        self.waited += waited
        self.sums += torch.stack([told.detach().cpu(), named.detach().cpu()])
        for task, good in zip(batch.tasks, answers_right(batch, right)) if right is not None else ():
            self.asked[task] += 1
            self.right[task] += good
        for name, good in names.items():
            self.asked[name] += good.numel()
            self.right[name] += int(good.sum())

    def summary(self, seconds, ranks):
        told, named = (self.sums / self.steps).tolist()
        shares = {name: round(self.right[name] / n, 4) for name, n in self.asked.items() if n}
        rates = {"per_second": ranks * self.conversations / seconds, "waited": self.waited / seconds}
        return rates | {"told": told, "named": named, "right": shares}


def shares(text):
    """`page=40,turns=0` as a dictionary."""
    pairs = (pair.split("=") for pair in text.split(","))
    chosen = {kind: float(share) for kind, share in pairs}
    if unknown := set(chosen) - set(generator.MIXTURE):
        raise argparse.ArgumentTypeError(f"no kind {', '.join(unknown)}; there are {', '.join(generator.MIXTURE)}")
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--stage", choices=["see", "tell", "all"], default="all", help="what is trained")
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument("--init", type=pathlib.Path, help="begin with the weights of an exported folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch on the CPU")
    parser.add_argument("--workers", type=int, default=1, help="processes that make conversations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="conversations in a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW; Muon has twice as much")
    parser.add_argument("--warmup", type=int, default=60, help="steps, at the beginning of each stage")
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument(
        "--help-weight", dest="help", type=float, default=0.3, help="weight of the heads beside what is told"
    )
    parser.add_argument(
        "--course", type=int, default=200_000, help="conversations over which pictures become as hard as in the test"
    )
    parser.add_argument(
        "--rounded", type=float, default=0.0, help="share of the steps in which the text model has 4-bit weights"
    )
    parser.add_argument(
        "--mixture", type=shares, default={}, help="other shares of kinds of conversations: page=40,turns=0,…"
    )
    parser.add_argument(
        "--tiles", type=float, help="how often pictures are cut into tiles, from 0 (never) to 1, in place of the course's"
    )
    parser.add_argument("--cooldown", type=int, help="conversations over which the rate falls to nothing, from now")
    parser.add_argument("--hours", type=float, help="stop after so long")
    parser.add_argument("--log", type=float, default=60, help="seconds")
    parser.add_argument("--save", type=float, default=10, help="minutes between checkpoints")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    generator.MIXTURE |= args.mixture
    args.run.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        group.init_process_group("gloo")
    run = Run(args)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(run, "stop", True))
    run.train()


if __name__ == "__main__":
    main()
