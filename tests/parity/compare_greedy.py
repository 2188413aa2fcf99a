#!/usr/bin/env python3
"""Compares greedy continuations of `ocelli run` with those of llama.cpp's `llama-completion`, word for word.

    python compare_greedy.py --ocelli target/release/ocelli --rival llama-completion --model FILE.gguf [-n 48]

Twenty raw prompts (no chat template), temperature 0, both programs with their defaults otherwise. Prints the prompts
that differ with the words where they part, and how many agree.
"""

import argparse
import json
import subprocess

PROMPTS = """Once upon a time, there was a
The capital of France is
In 1969, astronauts
To bake a good loaf of bread, you need
The mitochondria are
Photosynthesis is the process by which
A prime number is a number that
The quick brown fox
Water boils at
The theory of evolution was
def fibonacci(n):
My favourite book is
The largest planet in our solar system is
Climate change affects
When the train finally arrived,
The most important rule of chess is
An algorithm is
She opened the letter and
Shakespeare wrote
The difference between weather and climate is""".split("\n")


def ours(args, prompt):
    command = [args.ocelli, "run", "-m", args.model, "--raw", "-p", prompt, "-n", str(args.n), "--temp", "0", "--json"]
    command += ["-c", "256", "-t", str(args.threads), "--precision", args.precision]
    command += args.ocelli_args.split()
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["text"]


def theirs(args, prompt):
    command = [args.rival, "-m", args.model, "-p", prompt, "-n", str(args.n), "--temp", "0", "-no-cnv", "-c", "256"]
    command += ["--no-display-prompt", "-t", str(args.threads)]
    command += args.rival_args.split()
    done = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return done.stdout.rstrip().removesuffix("[end of text]")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocelli", default="ocelli")
    parser.add_argument("--rival", default="llama-completion")
    parser.add_argument("--model", required=True)
    parser.add_argument("--precision", default="fast")
    parser.add_argument("--ocelli-args", default="", help="more options for ocelli, in one string")
    parser.add_argument("--rival-args", default="", help="more options for the rival, in one string")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-n", type=int, default=48)
    args = parser.parse_args()
    agree = 0
    for prompt in PROMPTS:
        a, b = ours(args, prompt).strip().split(), theirs(args, prompt).strip().split()
        same = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        if a == b:
            agree += 1
        else:
            print(f"{prompt!r}: {same} words agree, then {a[same:same + 3]} / {b[same:same + 3]}", flush=True)
    print(f"{agree} of {len(PROMPTS)} agree word for word")


if __name__ == "__main__":
    main()
