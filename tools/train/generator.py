#!/usr/bin/env python3
"""Makes conversations about synthetic pictures, each a function of (split, seed, index).

    python generator.py --out DIR [--split held-out] [--seed 0] [--per-task 200] [--tasks colour shape …]

writes DIR/data.jsonl and DIR/images/. README.md describes the format.
"""

import argparse
import json
import math
import pathlib
import random
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

from PIL import ImageDraw

import questions
import scene as scenes
import slicing
from scene import COLOURS, SHAPES, SIZES, Thing

TASKS = """colour shape size position count yes-no read read-number sentence turns compare video outside
no-picture""".split()

ASKERS = {
    "colour": questions.colour,
    "shape": questions.shape,
    "size": questions.size,
    "position": questions.position,
    "count": questions.count,
    "yes-no": questions.yes_no,
    "read": questions.read,
    "read-number": questions.read,
    "sentence": questions.sentence,
    "outside": questions.outside,
    "side": questions.side,
}
"""`side` is part of `yes-no`; training asks for it more often than the test."""

WORDS = """apple bank bird blue boat book bread bridge camera candle car castle chair city clock cloud coffee corner desk
door dream drum eagle earth east exit farm field fire fish flag flower forest fox friend garden gate glass gold grape
green hall hand harbor heart hill honey horse hotel house ice island jacket jungle key king kitchen knife ladder lake
lamp leaf lemon letter light lion lunch mango map market melon metal milk mirror moon mountain mouse music night north
ocean office open orange paint paper park peach pencil piano pilot pizza planet plate pocket pond price queen quiet radio
rain rice river road robot rocket roof room rose salt school sea shadow ship shop silver sister sky smile snow sofa song
south spoon spring square star stone store storm street sugar summer sun table taxi teacher temple ticket tiger toast
tower town train tree valley village violin voice wall water wave west wheel window winter wolf wood yellow zebra zoo"""
WORDS = [word for word in WORDS.split() if len(word) <= 8]

SLICED = (0.45, 0.3, 0.25)
"""Weights of pictures of one slice, of a few and of many in held-out data."""


MIXTURE = {"shapes": 40, "count": 12, "text": 6, "number": 14, "page": 12, "turns": 10, "pair": 3, "film": 2, "alone": 1}
"""How often training has which kind of conversation; those with several pictures cost the most time."""


DESCRIBED = 0.7
"""Share of pictures that are described. A description says something of every cell, an answer of one."""

POOL = ["colour", "shape", "size", "position", "yes-no", "yes-no", "side", "side", "count", "outside"]
"""What is asked of pictures of shapes in training."""

CROWDS = [1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
"""Numbers of things in the pictures in which training counts."""

CUT = 0.4
"""Share of the pictures of numbers that have in training the sizes they have in the test: what is read on a tile is
not learnt from the overview."""

LETTERS_FROM = 5
"""Training that asks for shorter texts than this shows numbers only: ten signs are learnt before sixty."""


@dataclass
class Turn:
    """`about`: the thing that is asked about, where it is one; `meant`: all things the question is about, where that is
    clear; `phrases`: the question's noun phrases, in order, each with the things it means; `claim`: the property that a
    yes/no question ascribes to a thing."""

    task: str
    question: str
    answer: str
    about: Thing | None = None
    meant: list | None = None
    claim: str | None = None
    phrases: list = field(default_factory=list)


@dataclass
class Conversation:
    """Pictures, whether they are frames of a video, and turns in order."""

    pictures: list
    is_video: bool
    turns: list


@dataclass
class Scene:
    things: list
    labels: list = field(default_factory=list)
    spoken_of: Thing | None = None
    meant: list | None = None
    claim: str | None = None
    phrases: list = field(default_factory=list)


def random_things(rng, number, alike=False):
    """Things in different cells; with more than three none is big. `alike`: of a few shapes and colours."""
    cells = rng.sample(range(9), number)
    sizes = list(SIZES) if number <= 3 else ["small", "medium"]
    shapes = rng.sample(SHAPES, rng.randint(1, 3)) if alike else SHAPES
    colours = rng.sample(list(COLOURS), rng.randint(1, 3)) if alike else list(COLOURS)
    return [Thing(rng.choice(shapes), rng.choice(colours), rng.choice(sizes), c) for c in cells]


def settled(rng, number, width, height, alike=False):
    while True:
        things = random_things(rng, number, alike)
        if scenes.settle(rng, things, width, height):
            return things


def shapes_picture(rng, sizes, number, alike=False):
    width, height = scenes.picture_size(rng, sizes)
    things = settled(rng, number, width, height, alike)
    return scenes.draw_scene(rng, width, height, things), Scene(things)


def random_text(rng, longest, digits_only):
    """A number, a word, or letters and digits without a sense; digits that look like letters don't stand among letters."""
    length = rng.randint(1, longest)
    if digits_only or rng.random() < 0.3:
        return "".join(rng.choice("0123456789") for _ in range(length))
    kind = rng.choice(["word", "syllables", "syllables", "letters", "mixed"])
    if kind == "word":
        text = rng.choice([w for w in WORDS if len(w) <= longest] or ["sun"])
    elif kind == "syllables":
        text = "".join(rng.choice(s) for s in ["bcdfghjklmnprstvwz", "aeiou", "bcdfghklmnprstvwz", "aeiouy"] * 2)[
            : max(2, length)
        ]
    else:
        kinds = "abcdefghjkmnpqrstuvwxyz" + ("23456789" if kind == "mixed" else "")
        text = "".join(rng.choice(kinds) for _ in range(max(2, length)))
    style = rng.choice(["lower", "upper", "upper", "capital"])
    if style == "capital" and text.isalpha():
        return text.capitalize()
    return text if style == "lower" else text.upper()


def text_box(rng, text, left, top, width, height, unit):
    """A box for a line in a part of a picture; `unit` is the mean side of what fills a slice, of which a character is
    to have at least 9 %: 12 pixels."""
    least = max(0.09 * len(text), 0.14) * unit / (0.94 * width)
    box_width = 0.94 * width * rng.uniform(min(least, 1.0), 1.0)
    box_height = min(0.84 * height, 0.3 * unit)
    x = left + rng.uniform(0.03 * width, 0.97 * width - box_width)
    return x, top + rng.uniform(0.08 * height, 0.92 * height - box_height), box_width, box_height


def text_picture(rng, sizes, digits_only, longest=8):
    """A word across one of three bands, at times on a sign, with up to two shapes in the other bands.

    On a third of the pictures that are cut into tiles, the word is so small that it can only be read on a tile, and lies
    on one tile, alone.
    """
    width, height = scenes.picture_size(rng, sizes, 0.7)
    text = random_text(rng, longest, digits_only)
    plan = slicing.plan(width, height)
    if plan.columns and rng.random() < 0.33:
        return small_text_picture(rng, text, width, height, plan)
    band, things = rng.randrange(3), []
    top, bottom = band * height / 3, (band + 1) * height / 3
    for other in [b for b in range(3) if b != band] if rng.random() < 0.4 else []:
        if rng.random() < 0.6:
            cell = 3 * other + rng.randrange(3)
            things.append(Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), rng.choice(["small", "medium"]), cell))
    fits = scenes.settle(rng, things, width, height)
    if not fits or any(t.y + t.radius > top and t.y - t.radius < bottom for t in things):
        things = []
    colour = scenes.ground(rng, things)
    image = scenes.background(rng, width, height, colour)
    if rng.random() < 0.3:
        colour = scenes.far_from(rng, [], 0)
        ImageDraw.Draw(image).rectangle([0.01 * width, top + 1, 0.99 * width, bottom - 1], fill=colour)
    for thing in things:
        scenes.draw_thing(image, thing)
    box = text_box(rng, text, 0, top, width, height / 3, math.sqrt(width * height))
    label = scenes.write(rng, image, text, box, scenes.ink_on(rng, colour))
    return scenes.finish(rng, image, things, [label]), Scene(things, [label])


def small_text_picture(rng, text, width, height, plan):
    w, h = width / plan.columns, height / plan.rows
    left, top = w * rng.randrange(plan.columns), h * rng.randrange(plan.rows)
    colour = scenes.ground(rng, [])
    image = scenes.background(rng, width, height, colour)
    box = text_box(rng, text, left, top, w, h, math.sqrt(w * h))
    label = scenes.write(rng, image, text, box, scenes.ink_on(rng, colour))
    return scenes.finish(rng, image, [], [label]), Scene([], [label])


def page(rng, sizes, digits_only):
    """Lines full of signs: nothing to ask about, but ten times as much to learn signs from as in a picture of one word."""
    width, height = scenes.picture_size(rng, sizes, 0.7)
    unit = math.sqrt(width * height)
    colour = scenes.ground(rng, [])
    image, labels = scenes.background(rng, width, height, colour), []
    kinds = "0123456789" if digits_only else "0123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
    top = rng.uniform(0, 0.06) * height
    while True:
        line = rng.uniform(0.11, 0.3) * unit
        if top + line > height:
            break
        wide = rng.uniform(0.5, 0.96) * width
        text = "".join(rng.choice(kinds) for _ in range(max(1, int(wide / (rng.uniform(0.6, 1.1) * line)))))
        box = rng.uniform(0.02 * width, 0.98 * width - wide), top, wide, 0.8 * line
        labels.append(scenes.write(rng, image, text, box, scenes.ink_on(rng, colour)))
        top += line
    return scenes.finish(rng, image, [], labels), Scene([], labels)


def pair_of_pictures(rng, sizes):
    """Two pictures: either of different scenes, or of one in which a single thing about one object changes."""
    if rng.random() < 0.5:
        made = [shapes_picture(rng, sizes, rng.randint(1, 4)) for _ in range(2)]
        return [p for p, _ in made], SimpleNamespace(first=made[0][1], second=made[1][1], changed=None)
    width, height = scenes.picture_size(rng, sizes)
    while True:
        things = settled(rng, rng.randint(1, 3), width, height)
        change = rng.choice(["the colour", "the shape", "the size", "the position", "nothing"])
        after = [replace(t) for t in things]
        one = rng.choice(after)
        if change == "the colour":
            one.colour = questions.other(rng, COLOURS, one.colour)
        elif change == "the shape":
            one.shape = questions.other(rng, SHAPES, one.shape)
        elif change == "the size":
            one.size = questions.other(rng, SIZES, one.size)
        elif change == "the position":
            one.cell = rng.choice([c for c in range(9) if all(t.cell != c for t in things)])
        if change == "nothing" or settled_again(rng, things, after, one, change, width, height):
            break
    pictures = [scenes.draw_scene(rng, width, height, t, scenes.ground(rng, things + after)) for t in (things, after)]
    return pictures, SimpleNamespace(first=Scene(things), second=Scene(after), changed=change)


def settled_again(rng, before, after, one, change, width, height):
    """Places the changed thing; all others stay where they are, and it too unless its position is what changed."""
    if change in ("the colour", "the shape"):
        one.tint = scenes.shifted(rng, COLOURS[one.colour], 14)
        return True
    others = [t for t in after if t is not one]
    trial = replace(one)
    if change == "the size":
        low, high = SIZES[one.size]
        one.radius = rng.uniform(low, high) * math.sqrt(width * height) / 2
        edge = one.radius * 1.04 + 1
        one.x, one.y = min(max(one.x, edge), width - edge), min(max(one.y, edge), height - edge)
    else:
        if not scenes.settle(rng, [trial], width, height):
            return False
        one.x, one.y, one.radius = trial.x, trial.y, one.radius
        edge = one.radius * 1.04 + 1
        one.x, one.y = min(max(one.x, edge), width - edge), min(max(one.y, edge), height - edge)
    return all(math.dist((one.x, one.y), (t.x, t.y)) > one.radius + t.radius + 2 for t in others)


def film(rng):
    """Frames of one moving, growing or shrinking object, at times with one that stays."""
    width, height = scenes.picture_size(rng, (0.7, 0.3, 0.0), 0.4)
    unit, frames = math.sqrt(width * height), rng.randint(3, 5)
    change = rng.choice(questions.CHANGES)
    thing = Thing(rng.choice(SHAPES), rng.choice(list(COLOURS)), "", 4, turn=rng.uniform(-0.2, 0.2))
    thing.tint = scenes.shifted(rng, COLOURS[thing.colour], 14)
    low, high = 0.07 * unit, 0.19 * unit
    if change in ("grows", "shrinks"):
        small = rng.uniform(low, 0.1 * unit)
        sizes = [small + (min(small * rng.uniform(1.8, 2.4), high) - small) * i / (frames - 1) for i in range(frames)]
        sizes = sizes[::-1] if change == "shrinks" else sizes
        x, y = rng.uniform(high, width - high), rng.uniform(high, height - high)
        places = [(x, y, r) for r in sizes]
    else:
        r = rng.uniform(low, 0.14 * unit)
        across = change in ("left", "right")
        length, breadth = (width, height) if across else (height, width)
        begin = rng.uniform(r + 1, r + 1 + 0.2 * length)
        end = rng.uniform(begin + 0.35 * length, max(begin + 0.36 * length, length - r - 1))
        fixed = rng.uniform(r + 1, breadth - r - 1)
        path = [begin + (end - begin) * i / (frames - 1) for i in range(frames)]
        path = path[::-1] if change in ("left", "up") else path
        places = [(p, fixed, r) if across else (fixed, p, r) for p in path]
    colour = scenes.ground(rng, [thing])
    still = scenes.background(rng, width, height, colour)
    pictures = []
    for thing.x, thing.y, thing.radius in places:
        image = still.copy()
        scenes.draw_thing(image, thing)
        pictures.append(scenes.finish(rng, image, [replace(thing)], []))
    return pictures, thing, change


def asked(rng, task, scene):
    """A turn of this task, or None after a few tries."""
    before = scene.spoken_of
    for _ in range(8):
        scene.spoken_of = scene.meant = scene.claim = None
        scene.phrases = []
        made = ASKERS[task](rng, scene)
        about, scene.spoken_of = scene.spoken_of, scene.spoken_of or before
        if made is not None:
            task = "yes-no" if task == "side" else task
            return Turn(task, *made, about, [about] if about else scene.meant, scene.claim, scene.phrases)
    return None


def conversation(split, seed, index, task=None, sizes=SLICED, longest=8):
    """The conversation number `index`. With a task, one question of it; without, several turns of mixed tasks."""
    for attempt in range(100):
        rng = random.Random(f"{split} {seed} {index} {task} {attempt}")
        made = one_task(rng, task, sizes, longest) if task else mixture(rng, sizes, longest)
        if made.turns:
            return made
    raise RuntimeError(f"no {task} question could be made for index {index}")


def one_task(rng, task, sizes, longest):
    if task == "video":
        pictures, thing, change = film(rng)
        return Conversation(pictures, True, [Turn(task, *questions.video(rng, thing, change))])
    if task == "compare":
        pictures, pair = pair_of_pictures(rng, sizes)
        made = questions.compare(rng, pair)
        return Conversation(pictures, False, [Turn(task, *made)] if made else [])
    if task == "no-picture":
        return Conversation([], False, [Turn(task, *questions.without_picture(rng))])
    if task == "turns":
        return several_turns(rng, sizes)
    if task in ("read", "read-number"):
        picture, scene = text_picture(rng, sizes, task == "read-number", 4 if task == "read-number" else longest)
    else:
        number = rng.randint(1, 9) if task == "count" else rng.choice([1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
        if task == "sentence":
            number = rng.randint(1, 3)
        picture, scene = shapes_picture(rng, sizes, number, alike=task == "count" and rng.random() < 0.7)
    turn = asked(rng, task, scene)
    return Conversation([picture], False, [turn] if turn else [])


def several_turns(rng, sizes):
    """Three or four turns about one picture; at least one can only be understood from the one before."""
    picture, scene = shapes_picture(rng, sizes, rng.randint(1, 5))
    kinds = ["colour", "shape", "size", "position"]
    turns = []
    for _ in range(2):
        kind = rng.choice(kinds)
        turn = asked(rng, kind, scene)
        if turn is None:
            return Conversation([picture], False, [])
        said = {kind} | questions.mentioned(turn.question)
        turns.append(turn)
        for _ in range(min(rng.randint(0 if turns[1:] else 1, 2), len(kinds) - len(said))):
            turns.append(Turn("turns", *questions.follow_up(rng, scene, said), scene.spoken_of, [scene.spoken_of]))
    return Conversation([picture], False, [replace(t, task="turns") for t in turns[:4]])


def counts(rng, sizes):
    """Training: up to five counts of different things of one picture, mostly a full one, and a question of another kind."""
    picture, scene = shapes_picture(rng, sizes, rng.choice(CROWDS), alike=rng.random() < 0.75)
    turns, known = [], set()
    for _ in range(10):
        turn = asked(rng, "count", scene)
        counted = frozenset(thing.cell for thing in turn.meant)
        if len(turns) < 5 and counted not in known and (len(counted) < len(scene.things) or rng.random() < 0.4):
            turns.append(turn)
            known.add(counted)
    last = asked(rng, rng.choice(POOL), scene)
    turns += [last] if last is not None and last.task != "count" else []
    return Conversation([picture], False, turns)


def mixture(rng, sizes, longest):
    """Training: a picture is costly and a question cheap, so one picture gets several."""
    kind = rng.choices(list(MIXTURE), MIXTURE.values())[0]
    if kind == "film":
        pictures, thing, change = film(rng)
        return Conversation(pictures, True, [Turn("video", *questions.video(rng, thing, change)) for _ in range(2)])
    if kind == "alone":
        return one_task(rng, "no-picture", sizes, longest)
    if kind == "pair":
        pictures, pair = pair_of_pictures(rng, sizes)
        made = [questions.compare(rng, pair) for _ in range(1 if pair.changed else 4)]
        return Conversation(pictures, False, [Turn("compare", *m) for m in made if m])
    if kind == "turns":
        return several_turns(rng, sizes)
    if kind == "page":
        picture, _ = page(rng, sizes, longest < LETTERS_FROM)
        return Conversation([picture], False, [Turn("outside", rng.choice(questions.OUTSIDE), questions.CANNOT_TELL)])
    if kind == "count":
        return counts(rng, sizes)
    if kind in ("text", "number"):
        digits_only = kind == "number" or longest < LETTERS_FROM
        sizes = SLICED if kind == "number" and rng.random() < CUT else sizes
        picture, scene = text_picture(rng, sizes, digits_only, min(4, longest) if digits_only else longest)
        tasks = ["read"]
        if scene.things:
            tasks += rng.sample(["colour", "shape", "position", "yes-no"], 2)
            tasks += ["sentence"] * (rng.random() < 0.3)
        else:
            tasks += ["outside"] * (rng.random() < 0.1)
    else:
        number = rng.choice([1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
        picture, scene = shapes_picture(rng, sizes, number)
        tasks = rng.sample(POOL, 4)
        if number <= questions.MOST_DESCRIBED and rng.random() < DESCRIBED:
            tasks[0] = "sentence"
        if rng.random() < 0.5:
            rng.shuffle(tasks)
    turns = [asked(rng, task, scene) for task in tasks]
    return Conversation([picture], False, [t for t in turns if t is not None])


def write_task(folder, lines, split, seed, task, count):
    for index in range(count):
        made = conversation(split, seed, index, task)
        names = []
        for number, picture in enumerate(made.pictures):
            name = f"images/{task}-{index:05}-{number}.{'jpg' if picture.jpeg else 'png'}"
            if picture.jpeg:
                (folder / name).write_bytes(picture.jpeg)
            else:
                picture.image.save(folder / name)
            names.append(name)
        turns = [{"question": t.question, "answers": [t.answer], "score": "exact"} for t in made.turns]
        record = {
            "id": f"{task}-{index:05}",
            "task": task,
            "video" if made.is_video else "images": names,
            "turns": turns,
        }
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--split", choices=["held-out", "train"], default="held-out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--per-task", type=int, default=200)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    args = parser.parse_args()
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    with open(args.out / "data.jsonl", "w", encoding="utf-8") as lines:
        for task in args.tasks:
            write_task(args.out, lines, args.split, args.seed, task, args.per_task)


if __name__ == "__main__":
    main()
