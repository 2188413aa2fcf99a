#!/usr/bin/env python3
"""Makes the tokenizer: tokenizer.model, tokenizer.json, tokenizer_config.json, special_tokens_map.json.

    python vocabulary.py --out DIR

A SentencePiece vocabulary of kind BPE with byte fall-back, laid out as the published model's: `<unk>`, `<s>`, `</s>`,
256 bytes, the markers of images as user-defined pieces, then the pieces, and eight added tokens behind them.

The pieces are not had from the frequencies of pairs. Every piece of more than one character is the beginning of a known
word, with the space before it: `▁c`, `▁ci`, `▁cir` … `▁circle`; questions' first words have such pieces without the
space too. So the words of questions and answers are single tokens, while text that stands directly behind a line feed,
as every answer does, is spelled. What is read from a picture is thereby always spelled letter by letter, and a model
that has learnt the letters can read words it has never seen.
"""

import argparse
import collections
import json
import pathlib
import re

from sentencepiece import sentencepiece_model_pb2 as protobuf

import generator
from config import Config

MARKERS = [
    "<image>",
    "</image>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
    "<quad>",
    "</quad>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
]
ADDED = [
    "<|im_end|>",
    "<|im_start|>",
    "<|tool_call|>",
    "<|execute_start|>",
    "<|execute_end|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
]
SPACE = "▁"
TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)

COMMON = """a about after again all also always an and another any are around as ask away back be because been before
being below best better between both but by call came can come could day did different do does done down each early end
even every far few find first for found from full gave get give go good got great had half has have he hear help her here
high him his how if important in into is it its just keep kind know large last later learn leave left less let life like
line little live long look made make man many may me mean men might more most much must my name near need never new next
no not nothing now number of off often old on once one only open or other our out over own part people place play point
put question quite read really run said same saw say second see seem sentence set she should show side sit small so some
soon sound stand start state still stop such sure take talk tell ten than thank that the their them then there these they
thing think this those though three through time to today together told too took try turn two under until up us use very
want was watch way we well went were what when where which while who whole why will with without word work world would
write year yes yet you young your user assistant system please hello thanks answer photo picture pictures image images
video frame frames background light dark bright grey gray color colors colours shape shapes letter letters digit digits
zero four five six seven eight nine larger smaller bigger taller biggest smallest count"""
STARTERS = "What Which How Where Is Are Does Do Describe Read Count Name And Who The There In I It"


def words():
    """Words of questions and answers by how often the generator writes them, then common English."""
    counts = collections.Counter()
    for index in range(1500):
        for turn in generator.conversation("vocabulary", 0, index, sizes=(1, 0, 0)).turns:
            answer = "" if turn.task.startswith("read") else re.sub('"[^"]*"', "", turn.answer)
            counts.update(re.findall("[A-Za-z]+", turn.question.partition(" ")[2] + " " + answer.partition(" ")[2]))
    for question in generator.questions.OUTSIDE:
        counts.update(re.findall("[A-Za-z]+", question.partition(" ")[2]))
    ordered = sorted(counts, key=lambda w: (-counts[w], w))
    return ordered + [w for w in COMMON.split() if w not in counts]


def pieces(room):
    """At most `room` pieces of more than one character, in the order in which they merge."""
    chosen = {}
    add = lambda word, least: [chosen.setdefault(word[:i]) for i in range(least, len(word) + 1)]
    for word in STARTERS.split():
        add(word, 2)
    for word in [*words(), *generator.WORDS, *STARTERS.lower().split()]:
        before = list(chosen)
        add(SPACE + word, 2)
        if len(chosen) > room:
            chosen = dict.fromkeys(before)
    return sorted(chosen, key=lambda p: (len(p), p))


def splits(merged, known):
    return [(p[:i], p[i:]) for p in merged for i in range(1, len(p)) if p[:i] in known and p[i:] in known]


def characters():
    """Printable ASCII, Latin-1 and a few signs; the space is the mark of a word's beginning."""
    return (
        [SPACE]
        + [chr(c) for c in range(33, 127)]
        + [chr(c) for c in range(0xA1, 0x180) if c != 0xAD]
        + list("–—‘’“”…€")
    )


def build(vocab_size):
    """The merged pieces and all pieces before the added tokens as (text, SentencePiece kind, score)."""
    kinds = protobuf.ModelProto.SentencePiece
    out = [("<unk>", kinds.UNKNOWN, 0.0), ("<s>", kinds.CONTROL, 0.0), ("</s>", kinds.CONTROL, 0.0)]
    out += [(f"<0x{byte:02X}>", kinds.BYTE, 0.0) for byte in range(256)]
    out += [(marker, kinds.USER_DEFINED, 0.0) for marker in MARKERS]
    singles = characters()
    room = vocab_size - len(ADDED) - len(out) - len(singles)
    merged = pieces(room)
    # What is left goes to Greek and Cyrillic letters.
    singles += [chr(c) for c in [*range(0x3B1, 0x3CA), *range(0x391, 0x3A2), *range(0x410, 0x450)]][
        : room - len(merged)
    ]
    out += [(piece, kinds.NORMAL, float(-rank)) for rank, piece in enumerate(merged)]
    out += [(c, kinds.NORMAL, float(-len(merged) - i)) for i, c in enumerate(singles)]
    return merged, out


def sentencepiece_model(entries):
    model = protobuf.ModelProto()
    for text, kind, score in entries:
        model.pieces.add(piece=text, type=kind, score=score)
    spec = model.trainer_spec
    spec.model_type, spec.vocab_size, spec.byte_fallback = protobuf.TrainerSpec.BPE, len(entries), True
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    spec.user_defined_symbols.extend(MARKERS)
    normal = model.normalizer_spec
    normal.name, normal.add_dummy_prefix, normal.remove_extra_whitespaces, normal.escape_whitespaces = (
        "identity",
        True,
        False,
        True,
    )
    return model.SerializeToString()


def special(content, normalized=False):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized}


def tokenizer_json(merged, entries, added):
    known = {text for text, _, _ in entries}
    sequence = lambda kind, parts: {"type": "Sequence", kind: parts}
    replace = lambda a, b: {"type": "Replace", "pattern": {"String": a}, "content": b}
    bos = lambda kind: {"SpecialToken": {"id": "<s>", "type_id": kind}}
    part = lambda name, kind: {"Sequence": {"id": name, "type_id": kind}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **special(t), "special": True} for i, t in added.items()],
        "normalizer": sequence("normalizers", [{"type": "Prepend", "prepend": SPACE}, replace(" ", SPACE)]),
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos(0), part("A", 0)],
            "pair": [bos(0), part("A", 0), bos(1), part("B", 1)],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": sequence(
            "decoders",
            [
                replace(SPACE, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        ),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {text: i for i, (text, _, _) in enumerate(entries)},
            "merges": [list(pair) for pair in splits(merged, known)],
        },
    }


def write(folder, vocab_size=Config.vocab_size):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    merged, entries = build(vocab_size)
    first = vocab_size - len(ADDED)
    if len(entries) != first:
        raise ValueError(f"{len(entries)} pieces for {first} places: set vocab_size to {len(entries) + len(ADDED)}")
    markers = {i: text for i, (text, _, _) in enumerate(entries) if text in ("<unk>", "<s>", "</s>", *MARKERS)}
    added = markers | {first + i: text for i, text in enumerate(ADDED)}
    dump = lambda name, value: (folder / name).write_text(
        json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(entries))
    dump("tokenizer.json", tokenizer_json(merged, entries, added))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {str(i): {**special(t), "special": True} for i, t in added.items()},
        "additional_special_tokens": [*MARKERS, *ADDED],
        "bos_token": "<s>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": 1000000,
        "pad_token": None,
        "sp_model_kwargs": {},
        "spaces_between_special_tokens": False,
        "tokenizer_class": "LlamaTokenizerFast",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    }
    dump("tokenizer_config.json", config)
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    dump(
        "special_tokens_map.json",
        {"additional_special_tokens": [*MARKERS, *ADDED]} | {k: special(v) for k, v in tokens.items()},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
