"""What is asked about a scene, and the one right answer.

An asker is a function (rng, scene) -> (question, answer) or None where the scene does not allow the question. Answers
are short and always worded alike, so that exact match is a fair score.
"""

from scene import CELLS, COLOURS, SHAPES, SIZES

CANNOT_TELL = "I can't tell."
NO_PICTURE = "Please show me a picture."
GREETINGS = [
    "Hello",
    "Hello!",
    "Hi",
    "Hi there",
    "Good morning",
    "Good evening!",
    "Who are you?",
    "What can you do?",
    "How are you?",
    "Please help me.",
]

PLACES = {
    "top left": ["at the top left", "in the top left corner"],
    "top": ["at the top", "in the middle of the top"],
    "top right": ["at the top right", "in the top right corner"],
    "left": ["on the left", "in the middle of the left side"],
    "middle": ["in the middle", "in the centre"],
    "right": ["on the right", "in the middle of the right side"],
    "bottom left": ["at the bottom left", "in the bottom left corner"],
    "bottom": ["at the bottom", "in the middle of the bottom"],
    "bottom right": ["at the bottom right", "in the bottom right corner"],
}

PLURALS = {"cross": "crosses"} | {shape: f"{shape}s" for shape in SHAPES if shape != "cross"}

# Where a picture shows shapes or a word, none of these can be answered from it.
OUTSIDE = [
    "Who painted this?", "Who made this picture?", "When was this picture taken?", "Where was this photo taken?",
    "What is the name of the artist?", "How much does it cost?", "What time is it?", "What day is it?",
    "What is the weather like?", "Will it rain tomorrow?", "How old is the person?", "What is the person wearing?",
    "Who is the man in the picture?", "Who is the woman in the picture?", "What is the dog doing?",
    "What is the name of the cat?", "How many people live in London?", "What is the capital of France?",
    "What kind of car is this?", "What is on the table?", "Is the food good?", "What does the house look like?",
    "How heavy is it?", "How warm is it?", "What does it smell like?", "What music is playing?",
    "What is behind the camera?", "Which camera was used?", "What happened before?", "What will happen next?",
    "Why is it there?", "Who owns it?", "What is your name?", "How are you?", "What is two plus three?",
    "Write a poem.", "Tell me a story.", "Tell me a joke.", "Translate this into French.", "Is the water cold?",
    "How many trees are there?", "How many people are there?", "How many cats are there?", "How many dogs are there?",
    "What is the child eating?", "Which country is this?", "What city is this?", "Where is the car?",
    "Where is the dog?", "What colour is the car?", "What colour is the cat?", "What is the price of the book?",
    "Which book is this?", "Who wrote the book?", "What sport is this?", "Who won the game?", "Is the door open?",
    "Is the man happy?", "Is the woman sad?", "What season is it?", "How far away is it?", "How fast is it?",
    "What is it made of?", "Can you eat it?", "Does it make a sound?", "Who are you?", "What do you think?",
]  # fmt: skip


def cell(thing):
    return CELLS[thing.cell]


def alone(things, **wanted):
    """The one thing with these properties; None when there are none or several."""
    found = [t for t in things if all(getattr(t, k) == v for k, v in wanted.items())]
    return found[0] if len(found) == 1 else None


def at(rng, thing):
    return rng.choice(PLACES[cell(thing)])


def ways_to_name(rng, things, thing, without=()):
    """Noun phrases that mean only this thing and don't name the properties in `without`."""
    ways = []
    if len(things) == 1:
        ways.append(rng.choice(["the object", "the shape", "it"]))
    if "shape" not in without and alone(things, shape=thing.shape):
        ways.append(f"the {thing.shape}")
    if "colour" not in without and alone(things, colour=thing.colour):
        ways.append(f"the {thing.colour} {rng.choice(['object', 'shape', 'one'])}")
    if not {"shape", "colour"} & set(without) and alone(things, shape=thing.shape, colour=thing.colour):
        ways.append(f"the {thing.name}")
    if "cell" not in without:
        ways.append(f"the {rng.choice(['object', 'shape'])} {at(rng, thing)}")
        if "shape" not in without:
            ways.append(f"the {thing.shape} {at(rng, thing)}")
    return ways


def named(rng, scene, without):
    thing = rng.choice(scene.things)
    ways = ways_to_name(rng, scene.things, thing, without)
    if not ways:
        return None, None
    scene.spoken_of, name = thing, rng.choice(ways)
    scene.phrases = [(name, [thing])]
    return thing, name


def colour(rng, scene):
    thing, name = named(rng, scene, ["colour"])
    if thing is None:
        return None
    word = "color" if rng.random() < 0.15 else "colour"
    forms = [
        f"What {word} is {name}?",
        f"What {word} does {name} have?",
        f"Which {word} is {name}?",
        f"Name the {word} of {name}.",
    ]
    return rng.choices(forms, [6, 1, 2, 1])[0], thing.colour


def shape(rng, scene):
    thing, name = named(rng, scene, ["shape"])
    if thing is None:
        return None
    forms = [f"What shape is {name}?", f"Which shape is {name}?", f"What is {name}?", f"What shape does {name} have?"]
    return rng.choices(forms, [6, 2, 1, 1])[0], thing.shape


def size(rng, scene):
    thing, name = named(rng, scene, [])
    forms = [f"How big is {name}?", f"How large is {name}?", f"What size is {name}?"]
    return rng.choice(forms), thing.size


def position(rng, scene):
    thing, name = named(rng, scene, ["cell"])
    if thing is None:
        return None
    forms = [
        f"Where is {name}?",
        f"Where in the picture is {name}?",
        f"Where can I find {name}?",
        f"In which part of the picture is {name}?",
    ]
    return rng.choices(forms, [6, 2, 1, 1])[0], cell(thing)


def count(rng, scene):
    things = scene.things
    kind = rng.choice(["all", "shape", "colour"])
    if kind == "all":
        what, scene.meant = rng.choice(["objects", "shapes", "things"]), things
    elif kind == "shape":
        chosen = rng.choice(things).shape
        what, scene.meant = PLURALS[chosen], [t for t in things if t.shape == chosen]
    else:
        chosen = rng.choice(things).colour
        what = f"{chosen} {rng.choice(['objects', 'shapes'])}"
        scene.meant = [t for t in things if t.colour == chosen]
    scene.phrases = [(what, scene.meant)]
    forms = [
        f"How many {what} are there?",
        f"How many {what} do you see?",
        f"Count the {what}.",
        f"How many {what} are in the picture?",
    ]
    return rng.choice(forms), str(len(scene.meant))


def other(rng, words, word):
    return rng.choice([w for w in words if w != word])


def yes_no(rng, scene):
    """Half of the answers are yes. What is asked about is often nearly true."""
    things, truth = scene.things, rng.random() < 0.5
    answer = "yes" if truth else "no"
    thing = rng.choice(things)
    kind = rng.choice(["there", "there", "colour", "shape", "place", "size", "side"])
    if kind == "there":
        what = [thing.colour, thing.shape]
        if not truth:
            what[rng.randrange(2)] = None
            what = [what[0] or rng.choice(list(COLOURS)), what[1] or rng.choice(SHAPES)]
            if alone_or_more(things, *what):
                return None
        scene.meant = [t for t in things if [t.colour, t.shape] == what]
        scene.phrases = [(" ".join(what), scene.meant)]
        article = "an" if what[0][0] in "aeiou" else "a"
        forms = [
            f"Is there {article} {what[0]} {what[1]}?",
            f"Do you see {article} {what[0]} {what[1]}?",
            f"Does the picture show {article} {what[0]} {what[1]}?",
        ]
        return rng.choices(forms, [4, 1, 1])[0], answer
    if kind == "side":
        return side(rng, scene, truth)
    without = {"colour": "colour", "shape": "shape", "place": "cell", "size": "size"}[kind]
    ways = ways_to_name(rng, things, thing, [without])
    if not ways:
        return None
    name = rng.choice(ways)
    scene.spoken_of, scene.phrases = thing, [(name, [thing])]
    fact, words = {
        "colour": (thing.colour, COLOURS),
        "shape": (thing.shape, SHAPES),
        "size": (thing.size, SIZES),
        "place": (cell(thing), CELLS),
    }[kind]
    claim = scene.claim = fact if truth else other(rng, words, fact)
    said = {"shape": f"a {claim}", "place": rng.choice(PLACES[claim])} if kind == "place" else {"shape": f"a {claim}"}
    return f"Is {name} {said.get(kind, claim)}?", answer


def side(rng, scene, truth=None):
    """How two things lie to each other; `truth` is drawn if None."""
    things, truth = scene.things, rng.random() < 0.5 if truth is None else truth
    if len(things) < 2:
        return None
    a, b = scene.meant = rng.sample(things, 2)
    one = ways_to_name(rng, things, a, ["cell"])
    two = ways_to_name(rng, things, b, ["cell"])
    (ra, ca), (rb, cb) = divmod(a.cell, 3), divmod(b.cell, 3)
    relations = ([("left of", ca < cb), ("right of", ca > cb)] if ca != cb else []) + (
        [("above", ra < rb), ("below", ra > rb)] if ra != rb else []
    )
    fitting = [r for r, holds in relations if holds == truth]
    if not one or not two or not fitting:
        return None
    first, relation, second = rng.choice(one), rng.choice(fitting), rng.choice(two)
    scene.phrases = [(first, [a]), (second, [b])]
    return f"Is {first} {relation} {second}?", "yes" if truth else "no"


def alone_or_more(things, colour_, shape_):
    return any(t.colour == colour_ and t.shape == shape_ for t in things)


MOST_DESCRIBED = 4
"""Things in a sentence; held-out pictures to be described have three at most."""


def sentence(rng, scene):
    """All things, in reading order of their cells; a word after them."""
    if len(scene.things) > MOST_DESCRIBED:
        return None
    scene.meant = scene.things
    parts = [f"a {t.size} {t.name} {PLACES[cell(t)][0]}" for t in sorted(scene.things, key=lambda t: t.cell)]
    parts += [f'the text "{label.text}"' for label in scene.labels]
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    forms = [
        "Describe the picture.",
        "Describe the image.",
        "What do you see?",
        "What is in the picture?",
        "Describe the scene in a sentence.",
        "What does the picture show?",
    ]
    return rng.choices(forms, [4, 2, 2, 2, 2, 1])[0], f"The picture shows {listed}."


def read(rng, scene):
    if not scene.labels:
        return None
    text = scene.labels[0].text
    forms = [
        "What does it say?",
        "Read the text.",
        "What is written here?",
        "What text is in the picture?",
        "What is written in the picture?",
    ]
    if text.isdigit():
        forms = ["Which number is shown?", "Read the number.", "What number is in the picture?", *forms[:3]]
    elif text.isalpha():
        forms += ["Read the word.", "Which word is shown?"]
    return rng.choice(forms), text


def outside(rng, scene):
    """Questions the picture can't answer, and questions about shapes that are not there."""
    if rng.random() < 0.6:
        question = rng.choice(OUTSIDE)
        if rng.random() < 0.2:
            question = question[:-1]
        return question, CANNOT_TELL
    absent = [s for s in SHAPES if all(t.shape != s for t in scene.things)]
    if not absent:
        return None
    missing, scene.meant = rng.choice(absent), []
    name = missing if rng.random() < 0.7 else f"{rng.choice(list(COLOURS))} {missing}"
    scene.phrases = [(missing, [])]
    forms = [
        f"What colour is the {missing}?",
        f"Where is the {name}?",
        f"How big is the {name}?",
        f"What size is the {name}?",
    ]
    return rng.choice(forms), CANNOT_TELL


def without_picture(rng):
    """A greeting, or a question that would need a picture."""
    forms = [
        "What colour is the {}?",
        "Where is the {}?",
        "How many {}s are there?",
        "Is there a {}?",
        "How big is the {}?",
    ]
    plain = [
        "Describe the picture.",
        "What do you see?",
        "Read the text.",
        "What does it say?",
        "How many objects are there?",
    ]
    question = rng.choice(
        [rng.choice(forms).format(rng.choice(SHAPES)), rng.choice(plain), rng.choice(GREETINGS), rng.choice(OUTSIDE)]
    )
    return question, NO_PICTURE


# Follow-ups: about the thing spoken of last, which only the turn before names.


def mentioned(question):
    """The properties that a question itself tells."""
    told = {"colour": COLOURS, "shape": SHAPES, "position": [p for places in PLACES.values() for p in places]}
    return {kind for kind, words in told.items() if any(word in question for word in words)}


def follow_up(rng, scene, said):
    """A question about what `scene.spoken_of` is, without saying again which thing that is; `said` was asked already."""
    thing = scene.spoken_of
    kinds = {"colour": thing.colour, "shape": thing.shape, "size": thing.size, "position": cell(thing)}
    kind = rng.choice([k for k in kinds if k not in said])
    forms = {
        "colour": ["And what colour is it?", "What colour is it?", "And its colour?"],
        "shape": ["And what shape is it?", "What shape is it?", "And its shape?"],
        "size": ["And how big is it?", "How big is it?", "And its size?"],
        "position": ["And where is it?", "Where is it?", "And its place?"],
    }[kind]
    said.add(kind)
    return rng.choice(forms), kinds[kind]


# Two pictures.


def compare(rng, pair):
    """`pair` has .first and .second (scenes), and .changed when one is the other with one change."""
    first, second = pair.first, pair.second
    if pair.changed is not None:
        forms = [
            "What is different?",
            "What has changed?",
            "What is the difference between the pictures?",
            "How do the two pictures differ?",
        ]
        return rng.choice(forms), pair.changed
    order = rng.choice(["first", "second"])
    scene, rest = (first, second) if order == "first" else (second, first)
    kind = rng.choice(["more", "which", "colour", "shape", "count", "same"])
    picture = rng.choice(["picture", "image"])
    if kind == "more":
        a, b = len(first.things), len(second.things)
        answer = "the first" if a > b else "the second" if b > a else "both the same"
        return f"Which {picture} shows more {rng.choice(['objects', 'shapes'])}?", answer
    if kind == "which":
        thing = rng.choice(scene.things)
        attribute = rng.choice(["colour", "shape", "both"])
        if attribute == "both" and not alone_or_more(rest.things, thing.colour, thing.shape):
            return f"Which {picture} shows a {thing.name}?".replace(" a orange", " an orange"), f"the {order}"
        if attribute == "shape" and all(t.shape != thing.shape for t in rest.things):
            return f"Which {picture} shows a {thing.shape}?", f"the {order}"
        if attribute == "colour" and all(t.colour != thing.colour for t in rest.things):
            return f"Which {picture} shows something {thing.colour}?", f"the {order}"
        return None
    if kind == "count":
        return f"How many {rng.choice(['objects', 'shapes'])} are in the {order} {picture}?", str(len(scene.things))
    if kind == "same":
        both = {t.shape for t in first.things} & {t.shape for t in second.things}
        if len(first.things) != 1 or len(second.things) != 1:
            return None
        return f"Do both {picture}s show the same shape?", "yes" if both else "no"
    asked = colour(rng, scene) if kind == "colour" else shape(rng, scene)
    if asked is None or not asked[0].startswith(("What", "Which")) or " it" in asked[0]:
        return None
    return f"{asked[0][:-1]} in the {order} {picture}?", asked[1]


# A short video.

CHANGES = ["left", "right", "up", "down", "grows", "shrinks"]


def video(rng, thing, change):
    moves = change not in ("grows", "shrinks")
    kind = rng.choice(["happens", "happens", "name"] + (["way"] if moves else []))
    does = f"moves {change}" if moves else change
    if kind == "way":
        return f"Which way does the {rng.choice([thing.shape, thing.name, 'object'])} move?", change
    if kind == "name":
        return f"What does the {rng.choice([thing.shape, thing.name])} do?", f"It {does}."
    forms = ["What happens in the video?", "What happens?", "What changes?", "Describe the video."]
    return rng.choice(forms), f"The {thing.name} {does}."
