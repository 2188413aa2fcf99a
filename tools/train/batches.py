"""Batches of fresh conversations, made by worker processes.

Conversations come in chunks; within a chunk they are sorted by length, so that a batch needs little padding, and the
batches shuffled. A chunk is a function of the seed and its number.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import generator
import prompts
import slicing
from scene import COLOURS, SHAPES

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KINDS = [1 + len(SHAPES), 1 + len(COLOURS), 1 + len(CHARACTERS)]
"""Classes of a patch: the shape, the colour of the shape, the character at its centre; 0 is none."""


@dataclass
class Batch:
    """Tensors of one step; `targets` are the tokens to be said, `at` where in the flattened ids they are predicted."""

    ids: torch.Tensor
    patches: torch.Tensor
    sizes: torch.Tensor
    classes: torch.Tensor
    at: torch.Tensor
    targets: torch.Tensor
    turn: torch.Tensor
    tasks: list
    conversations: int

    def to(self, device):
        moved = {
            k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()
        }
        return Batch(**moved)


def patch_classes(picture, plan):
    """[N, 3] classes of the patches of every slice."""
    width, height = picture.image.size
    frames = [(0.0, 0.0, width / plan.overview[0], height / plan.overview[1], plan.overview)]
    w, h = plan.tile
    for y in range(plan.rows):
        for x in range(plan.columns):
            sx, sy = width / (w * plan.columns), height / (h * plan.rows)
            frames.append((x * w * sx, y * h * sy, sx, sy, plan.tile))
    out = []
    for left, top, sx, sy, (w, h) in frames:
        columns, rows = w // slicing.PATCH, h // slicing.PATCH
        x = np.tile(left + (np.arange(columns) + 0.5) * slicing.PATCH * sx, rows)
        y = np.repeat(top + (np.arange(rows) + 0.5) * slicing.PATCH * sy, columns)
        found = np.zeros((rows * columns, 3), np.uint8)
        for thing in picture.things:
            inside = (x - thing.x) ** 2 + (y - thing.y) ** 2 < (0.9 * thing.radius) ** 2
            found[inside, 0] = 1 + SHAPES.index(thing.shape)
            found[inside, 1] = 1 + list(COLOURS).index(thing.colour)
        for label in picture.labels:
            for sign, (x0, y0, x1, y1) in zip(label.text, label.boxes):
                inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
                found[inside, 2] = 1 + CHARACTERS.index(sign)
        out.append(found)
    return out


def prepare(reader, made, labelled=True):
    """(ids, said, slices, classes, tasks) of a conversation."""
    plans, slices = prompts.pictures([p.image for p in made.pictures], made.is_video)
    ids, said = reader.ids(plans, made.is_video, [(t.question, t.answer) for t in made.turns])
    classes = [c for p, plan in zip(made.pictures, plans) for c in patch_classes(p, plan)] if labelled else []
    return ids, said, slices, classes, [t.task for t in made.turns]


def collate(items):
    length = max(len(item[0]) for item in items)
    ids = np.full((len(items), length), 2, np.int64)
    at, targets, turn, tasks = [], [], [], []
    for row, (one, said, _, _, names) in enumerate(items):
        ids[row, : len(one)] = one
        where = [i for i, s in enumerate(said) if s >= 0]
        at += [row * length + i - 1 for i in where]
        targets += [one[i] for i in where]
        turn += [len(tasks) + said[i] for i in where]
        tasks += names
    slices = [s for item in items for s in item[2]]
    classes = [c for item in items for c in item[3]]
    most = max((len(p) for _, _, p in slices), default=1)
    patches = np.zeros((len(slices), most, 588), np.uint8)
    marks = np.full((len(slices), most, 3), 255, np.uint8)
    for i, (_, _, p) in enumerate(slices):
        patches[i, : len(p)] = p
    for i, c in enumerate(classes):
        marks[i, : len(c)] = c
    sizes = np.array([(r, c) for r, c, _ in slices], np.int64).reshape(-1, 2)
    tensor = torch.from_numpy
    numbers = lambda values: torch.tensor(values, dtype=torch.long)
    return Batch(
        tensor(ids), tensor(patches), tensor(sizes), tensor(marks), numbers(at), numbers(targets), numbers(turn), tasks, len(items)
    )  # fmt: skip


@dataclass(frozen=True)
class Course:
    """How hard the pictures are after so many conversations: few tiles and short texts first.

    A picture of ten slices costs eight times as much as one of one slice, and teaches little more: also at the end there
    are fewer of them than in held-out data.
    """

    length: int
    EASY = (0.94, 0.05, 0.01)
    HARD = (0.66, 0.22, 0.12)

    def at(self, conversations):
        """Weights of the sizes of pictures, and the most characters of a text. Texts grow first, then pictures."""
        done = min(1.0, conversations / self.length) if self.length else 1.0
        late = max(0.0, 2 * done - 1)
        sizes = tuple(a + (b - a) * late for a, b in zip(self.EASY, self.HARD))
        return sizes, min(8, 2 + int(14 * done))


class Fresh(IterableDataset):
    """Endless batches, beginning with chunk `first`; each worker makes every n-th chunk."""

    CHUNK = 16

    def __init__(self, folder, seed, size, first, course):
        self.folder, self.seed, self.size, self.first, self.course = folder, seed, size, first, course

    def __iter__(self):
        torch.set_num_threads(1)
        reader = prompts.Prompts(self.folder)
        info = get_worker_info()
        chunk, step = (self.first + info.id, info.num_workers) if info else (self.first, 1)
        per_chunk = self.CHUNK * self.size
        while True:
            sizes, longest = self.course.at(chunk * per_chunk)
            items = []
            for index in range(chunk * per_chunk, (chunk + 1) * per_chunk):
                items.append(prepare(reader, generator.conversation("train", self.seed, index, None, sizes, longest)))
            items.sort(key=lambda item: (len(item[2]), len(item[0])))
            groups = [items[i : i + self.size] for i in range(0, per_chunk, self.size)]
            random.Random(f"{self.seed} {chunk}").shuffle(groups)
            yield from map(collate, groups)
            chunk += step


def loader(folder, seed, size, first, course, workers):
    data = Fresh(folder, seed, size, first, course)
    return DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
