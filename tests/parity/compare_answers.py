#!/usr/bin/env python3
"""Compares answers about pictures with those of llama.cpp's `llama-mtmd-cli`, from the same two files.

    python compare_answers.py --ocelli target/release/ocelli --rival llama-mtmd-cli --model FILE.gguf --mmproj FILE.gguf \
        --data DATA/data.jsonl [--limit 100]

DATA as `tools/train/generator.py` makes it; of every conversation with one picture the first question is asked. Both
programs choose the most likely token; ours cuts pictures by llama.cpp's rules (--image-profile llama.cpp). Prints every
pair of answers that differ, how many agree, and how many of each are right.
"""

import argparse
import json
import pathlib
import subprocess


def questions(path, limit):
    """(picture, question, right answers), the tasks in turn."""
    by_task = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if len(record.get("images", [])) == 1:
            turn = record["turns"][0]
            picture = path.parent / record["images"][0]
            by_task.setdefault(record["task"], []).append((picture, turn["question"], turn["answers"]))
    rounds = max(len(asked) for asked in by_task.values())
    return [asked[i] for i in range(rounds) for asked in by_task.values() if i < len(asked)][:limit]


def ours(args, picture, question):
    command = [args.ocelli, "run", "-m", args.model, "--mmproj", args.mmproj, "--image", str(picture), "-p", question]
    command += ["--temp", "0", "-n", "64", "-c", "2048", "--json", "--image-profile", "llama.cpp"]
    command += ["-t", str(args.threads), *args.ocelli_args.split()]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["text"].strip()


def theirs(args, picture, question):
    command = [args.rival, "-m", args.model, "--mmproj", args.mmproj, "--image", str(picture), "-p", question]
    command += ["--temp", "0", "-n", "64", "-c", "2048", "-t", str(args.threads), *args.rival_args.split()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", default="ocelli")
    parser.add_argument("--rival", default="llama-mtmd-cli")
    parser.add_argument("--model", required=True)
    parser.add_argument("--mmproj", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--ocelli-args", default="", help="more options for ocelli, in one string")
    parser.add_argument("--rival-args", default="", help="more options for the rival, in one string")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    asked = questions(args.data, args.limit)
    same = right = right_theirs = 0
    for picture, question, answers in asked:
        mine, other = ours(args, picture, question), theirs(args, picture, question)
        same += mine == other
        right += mine in answers
        right_theirs += other in answers
        if mine != other:
            print(f"{picture.name}: {question!r}: {mine!r} here, {other!r} there, {answers} right")
    print(f"{same} of {len(asked)} answers are the same; right: {right} here, {right_theirs} there")


if __name__ == "__main__":
    main()
