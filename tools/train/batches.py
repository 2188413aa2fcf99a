"""Batches of fresh conversations, made by worker processes.

Conversations come in chunks; within a chunk they are sorted by length, so that a batch needs little padding, and the
batches shuffled. A chunk is a function of the seed and its number.
"""

import collections
import random
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

import generator
import prompts
import scene
import slicing
from scene import COLOURS, SHAPES, SIZES

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CLAIMS = [*SHAPES, *COLOURS, *SIZES, *scene.CELLS]
KINDS = {"shape": SHAPES, "colour": COLOURS, "sign": CHARACTERS, "size": SIZES, "place": range(9), "order": range(8), "claim": CLAIMS}
KINDS = {name: 1 + len(classes) for name, classes in KINDS.items()}
"""Numbers of classes of what the heads name; 0 is none."""
UNKNOWN = 255
"""The class of what is not asked: padding, and what can't be told from a slice."""
CELLS, LONGEST, PARTS = 9, 8, 49
TALLIED = len(SHAPES) + len(COLOURS)
"""Kinds of things that are counted in a picture."""

WEIGHTS = {"count": 3.0, "yes-no": 3.0, "read": 2.0, "compare": 1.5, "video": 1.5}
"""Of answers in the loss, where not 1, times the third root (nearly the square) of the answer's length: otherwise descriptions would be most of it,
and answers that are one figure or yes next to nothing."""


@dataclass
class Classes:
    """What is on a slice: for each patch shape, colour and sign at its centre and which sign of its line that is, and which
    of its 7 x 7 parts belong to a thing or a sign; for each cell of the 3 x 3 grid shape, colour and size of the thing in it and its own number; the
    signs of the text in order, and their numbers."""

    patches: np.ndarray
    parts: np.ndarray
    cells: np.ndarray
    signs: np.ndarray


@dataclass
class Batch:
    """Tensors of one step; `targets` are the tokens to be said, `at` where in the flattened ids they are predicted. For each
    turn `begins` tells where its answer is begun, `about` shape, colour, size and cell of the thing asked about and what is
    claimed of it, `meant` in which cells the things are that the question is about, and `pair` the cells of two things that
    are compared. `tally_at` are the flattened places behind a conversation's first overview, `tallies` how many things on it
    have each shape and colour. `phrase_ends` are the flattened places where noun phrases of questions end, `phrases` the
    cells of what each means. `weights` of the targets sum to 1."""

    ids: torch.Tensor
    patches: torch.Tensor
    sizes: torch.Tensor
    marks: torch.Tensor
    parts: torch.Tensor
    cells: torch.Tensor
    signs: torch.Tensor
    at: torch.Tensor
    targets: torch.Tensor
    turn: torch.Tensor
    begins: torch.Tensor
    about: torch.Tensor
    meant: torch.Tensor
    pair: torch.Tensor
    phrase_ends: torch.Tensor
    phrases: torch.Tensor
    tally_at: torch.Tensor
    tallies: torch.Tensor
    weights: torch.Tensor
    tasks: list
    conversations: int

    def to(self, device):
        moved = {
            k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in vars(self).items()
        }
        return Batch(**moved)


def place_in(words, word):
    return 1 + list(words).index(word)


def slice_classes(picture, plan):
    """Classes of every slice."""
    width, height = picture.image.size
    sx = width / plan.overview[0]
    out = [
        Classes(
            patch_classes(picture, 0.0, 0.0, width, height, plan.overview),
            part_classes(picture, plan),
            cell_classes(picture),
            signs_on(picture, 0, 0, width, height, sx),
        )
    ]
    for y in range(plan.rows):
        for x in range(plan.columns):
            w, h = width / plan.columns, height / plan.rows
            left, top, sx = x * w, y * h, w / plan.tile[0]
            patches = patch_classes(picture, left, top, w, h, plan.tile)
            cells = np.full((CELLS, 4), UNKNOWN, np.uint8)
            parts = np.full((len(patches), PARTS), UNKNOWN, np.uint8)
            out.append(Classes(patches, parts, cells, signs_on(picture, left, top, w, h, sx)))
    return out


def patch_classes(picture, left, top, width, height, size):
    """Of the part of the picture that becomes a slice of this size."""
    columns, rows = size[0] // slicing.PATCH, size[1] // slicing.PATCH
    x = np.tile(left + (np.arange(columns) + 0.5) * width / columns, rows)
    y = np.repeat(top + (np.arange(rows) + 0.5) * height / rows, columns)
    found = np.zeros((rows * columns, 4), np.uint8)
    for thing in picture.things:
        inside = (x - thing.x) ** 2 + (y - thing.y) ** 2 < (0.9 * thing.radius) ** 2
        found[inside, :2] = place_in(SHAPES, thing.shape), place_in(COLOURS, thing.colour)
    for label in picture.labels:
        whole = label.boxes[0][0] >= left - 1 and label.boxes[-1][2] <= left + width + 1
        for order, (sign, (x0, y0, x1, y1)) in enumerate(zip(label.text, label.boxes)):
            inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
            found[inside, 2] = place_in(CHARACTERS, sign)
            found[inside, 3] = 1 + order if whole and order < LONGEST else UNKNOWN
    return found


def part_classes(picture, plan):
    """1 where a part of a patch belongs to something that stands out. Only for pictures of one slice, to save time."""
    width, height = plan.overview[0] // 2, plan.overview[1] // 2
    columns, rows = width // 7, height // 7
    if plan.columns:
        return np.full((rows * columns, PARTS), UNKNOWN, np.uint8)
    mask = np.asarray(scene.shown(picture).resize((width, height), Image.Resampling.BOX)) > 127
    return mask.reshape(rows, 7, columns, 7).transpose(0, 2, 1, 3).reshape(-1, PARTS).astype(np.uint8)


def about_classes(turn):
    """Shape, colour, size and cell of the thing that is asked about, and what is claimed of it."""
    thing, claim = turn.about, place_in(CLAIMS, turn.claim) if turn.claim else UNKNOWN
    if thing is None or not thing.size:
        return (*(UNKNOWN,) * 4, claim)
    known = (SHAPES, thing.shape), (COLOURS, thing.colour), (SIZES, thing.size)
    return (*(place_in(*pair) for pair in known), 1 + thing.cell, claim)


def cells_of(things):
    """1 for each cell with one of the things; unknown where those are not told."""
    if things is None or any(not thing.size for thing in things):
        return (UNKNOWN,) * CELLS
    cells = {thing.cell for thing in things}
    return tuple(int(cell in cells) for cell in range(CELLS))


def pair_classes(turn):
    """Cells of two things that a question compares."""
    if len(turn.phrases) != 2:
        return UNKNOWN, UNKNOWN
    return tuple(1 + things[0].cell for _, things in turn.phrases)


def phrase_places(reader, turn, begin):
    """(place, cells) of the last token of each noun phrase of a question whose answer begins at place `begin`."""
    whole, out, done = reader.asking(turn.question), [], 0
    for phrase, things in turn.phrases:
        done = turn.question.index(phrase, done) + len(phrase)
        part = reader.fragment(f"<|im_start|>user\n{turn.question[:done]}")
        if whole[: len(part)] == part:
            out.append((begin - len(whole) + len(part) - 1, cells_of(things)))
    return out


@dataclass
class Labels:
    """What the heads are to name at a turn."""

    task: str
    about: tuple
    meant: tuple
    pair: tuple
    phrases: list


def labels_of(reader, turn, begin):
    return Labels(turn.task, about_classes(turn), cells_of(turn.meant), pair_classes(turn), phrase_places(reader, turn, begin))


def cell_classes(picture):
    found = np.zeros((CELLS, 4), np.uint8)
    found[:, 3] = 1 + np.arange(CELLS)
    width, height = picture.image.size
    for thing in picture.things:
        cell = min(2, int(3 * thing.y / height)) * 3 + min(2, int(3 * thing.x / width))
        size = place_in(SIZES, thing.size) if thing.size else UNKNOWN
        found[cell, :3] = place_in(SHAPES, thing.shape), place_in(COLOURS, thing.colour), size
    return found


def tally_of(cells):
    """How many things have each shape and each colour."""
    counts = [np.bincount(cells[:, kind], minlength=KINDS[name]) for kind, name in enumerate(("shape", "colour"))]
    return [*counts[0][1:], *counts[1][1:]]


def signs_on(picture, left, top, width, height, scale):
    """The signs of a text that lies wholly in this part; unknown where it is cut or too small to be read."""
    found = np.zeros((LONGEST, 2), np.uint8)
    found[:, 1] = 1 + np.arange(LONGEST)
    if len(picture.labels) > 1:
        found[:, 0] = UNKNOWN
        return found
    for label in picture.labels:
        x0, y0, x1, y1 = label.boxes[0][0], label.boxes[0][1], label.boxes[-1][2], label.boxes[0][3]
        if x1 <= left or x0 >= left + width or y1 <= top or y0 >= top + height:
            continue
        cut = x0 < left - 1 or x1 > left + width + 1 or y0 < top - 1 or y1 > top + height + 1
        if cut or (x1 - x0) / len(label.text) / scale < 6:
            found[:, 0] = UNKNOWN
        else:
            found[: len(label.text), 0] = [place_in(CHARACTERS, sign) for sign in label.text]
    return found


def prepare(reader, made, labelled=True):
    """(ids, said, slices, classes, labels of each turn) of a conversation."""
    plans, slices = prompts.pictures([p.image for p in made.pictures], made.is_video)
    ids, said = reader.ids(plans, made.is_video, [(t.question, t.answer) for t in made.turns])
    classes = [c for p, plan in zip(made.pictures, plans) for c in slice_classes(p, plan)] if labelled else []
    return ids, said, slices, classes, [labels_of(reader, t, said.index(n)) for n, t in enumerate(made.turns)]


def collate(items):
    length = max(len(item[0]) for item in items)
    ids = np.full((len(items), length), 2, np.int64)
    at, targets, turn, begins, labels, phrases, weights = [], [], [], [], [], [], []
    tally_at, tallies = [], []
    for row, (one, said, _, shown, turns) in enumerate(items):
        ids[row, : len(one)] = one
        if shown:
            tally_at.append(row * length + one.index(0) + prompts.QUERIES)
            tallies.append(tally_of(shown[0].cells))
        where = [i for i, s in enumerate(said) if s >= 0]
        at += [row * length + i - 1 for i in where]
        targets += [one[i] for i in where]
        turn += [len(labels) + said[i] for i in where]
        begins += [row * length + said.index(number) - 1 for number in range(len(turns))]
        labels += turns
        phrases += [(row * length + place, cells) for one_turn in turns for place, cells in one_turn.phrases]
        tokens = collections.Counter(said)
        weights += [WEIGHTS.get(turns[s].task, 1.0) * tokens[s] ** -0.35 for s in said if s >= 0]
    slices = [s for item in items for s in item[2]]
    classes = [c for item in items for c in item[3]]
    most = max((len(p) for _, _, p in slices), default=1)
    patches = np.zeros((len(slices), most, 588), np.uint8)
    marks = np.full((len(slices), most, 4), UNKNOWN, np.uint8)
    parts = np.full((len(slices), most, PARTS), UNKNOWN, np.uint8)
    cells = np.full((len(slices), CELLS, 4), UNKNOWN, np.uint8)
    signs = np.full((len(slices), LONGEST, 2), UNKNOWN, np.uint8)
    for i, (_, _, p) in enumerate(slices):
        patches[i, : len(p)] = p
    for i, c in enumerate(classes):
        marks[i, : len(c.patches)], parts[i, : len(c.parts)] = c.patches, c.parts
        cells[i], signs[i] = c.cells, c.signs
    sizes = np.array([(r, c) for r, c, _ in slices], np.int64).reshape(-1, 2)
    arrays = {"ids": ids, "patches": patches, "sizes": sizes, "marks": marks, "parts": parts, "cells": cells, "signs": signs}
    numbers = {"at": at, "targets": targets, "turn": turn, "begins": begins}
    numbers["phrase_ends"] = [place for place, _ in phrases]
    numbers["tally_at"] = tally_at
    numbers["tallies"] = np.array(tallies, np.int64).reshape(-1, TALLIED)
    numbers["phrases"] = np.array([cells for _, cells in phrases], np.int64).reshape(-1, CELLS)
    for name, width in ("about", 5), ("meant", CELLS), ("pair", 2):
        numbers[name] = np.array([getattr(one, name) for one in labels], np.int64).reshape(-1, width)
    made = {name: torch.from_numpy(array) for name, array in arrays.items()}
    made |= {name: torch.as_tensor(values, dtype=torch.long) for name, values in numbers.items()}
    made["weights"] = torch.tensor(weights, dtype=torch.float32) / sum(weights)
    return Batch(**made, tasks=[one.task for one in labels], conversations=len(items))


@dataclass(frozen=True)
class Course:
    """How hard the pictures are after so many conversations: few tiles and short texts first.

    A picture of ten slices costs eight times as much as one of one slice, and teaches little more: also at the end there
    are fewer of them than in held-out data.
    """

    length: int
    tiles: float | None = None
    """How far the sizes of pictures are, from 0 to 1; as far as the course goes if None."""
    EASY = (1.0, 0.0, 0.0)
    HARD = (0.66, 0.22, 0.12)

    def at(self, conversations):
        """Weights of the sizes of pictures, and the most characters of a text. Texts grow first, then pictures."""
        done = min(1.0, conversations / self.length) if self.length else 1.0
        late = max(0.0, 2 * done - 1) if self.tiles is None else self.tiles
        sizes = tuple(a + (b - a) * late for a, b in zip(self.EASY, self.HARD))
        return sizes, min(8, 2 + int(14 * done))


class Fresh(IterableDataset):
    """Endless batches, beginning with chunk `first`; each worker of each process makes every n-th chunk."""

    CHUNK = 16

    def __init__(self, folder, seed, size, first, course, rank=0, ranks=1):
        self.folder, self.seed, self.size, self.first, self.course = folder, seed, size, first, course
        self.rank, self.ranks = rank, ranks

    def __iter__(self):
        torch.set_num_threads(1)
        reader = prompts.Prompts(self.folder)
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        chunk, step = self.first + self.rank * workers + number, self.ranks * workers
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


def loader(folder, seed, size, first, course, workers, rank=0, ranks=1):
    data = Fresh(folder, seed, size, first, course, rank, ranks)
    return DataLoader(
        data,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        pin_memory=torch.cuda.is_available(),
    )
