#!/usr/bin/env python3
"""Puts two runs together that began as one: the text model of a run in stage `tell`, what sees of a run in stage `see`.

    python join.py --tell RUN --see RUN --out RUN

The new run goes on with `train.py --run OUT --resume --stage all`, with optimisers that begin anew.
"""

import argparse
import pathlib
import shutil

import torch

import export
import train


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--tell", "--see", "--out"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    args = parser.parse_args()
    if (args.out / "checkpoint.pt").exists():
        raise SystemExit(f"{args.out} holds a run: choose another folder")
    load = lambda run: torch.load(run / "checkpoint.pt", map_location="cpu", weights_only=True)
    tell, see = load(args.tell), load(args.see)
    seen = {name: value for name, value in see["trainer"].items() if not name.startswith(train.OF_TEXT)}
    tell["trainer"] |= seen
    tell["stage"] = "joined"
    for name in ("conversations", "drawn"):
        tell[name] = max(tell[name], see[name])
    args.out.mkdir(parents=True, exist_ok=True)
    for name in export.TOKENIZER:
        shutil.copyfile(args.tell / name, args.out / name)
    train.save(args.out / "checkpoint.pt", tell)


if __name__ == "__main__":
    main()
