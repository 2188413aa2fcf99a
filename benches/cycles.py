#!/usr/bin/env python3
"""Cycles of the loops of compiled functions, as llvm-mca estimates them: for machines that are not at hand.

    objdump -d -C --no-show-raw-insn FILE > LISTING        # or the compiler's own assembly, FILE.s
    benches/cycles.py LISTING FUNCTION --cpu apple-m1 neoverse-v2 [--triple aarch64] [--mattr +dotprod,+i8mm]

FUNCTION is a regular expression. Every loop (a branch backwards, and where it leads) gets a line: the instructions that
are its own, without those of loops within it, and their cycles per turn when run over and over. Indented lines are loops
within. What a whole pass takes is the sum over loops of turns × cycles, where the turns are known from the source.
Branches and calls are left out, caches always hit.
"""

import argparse
import collections
import re
import subprocess

BRANCH = re.compile(
    r"(?:b|b\.\w+|b(?:eq|ne|cs|cc|mi|pl|hi|ls|ge|lt|gt|le|hs|lo)|cbn?z|tbn?z|j\w+)\s+(?:.*[, ])?(\.L\w+|A[0-9a-f]+)$"
)
LEAVES = re.compile(r"(?:ret|bl|blr|br|call|jmp)\b")


def functions(path):
    """Instructions and labels of every function of an assembly file or a listing of objdump."""
    found, items, number = {}, None, 0
    for line in open(path, encoding="utf-8"):
        line = re.split(r"//| # ", line.rstrip())[0].rstrip()
        if head := re.match(r"[0-9a-f]+ <(.*)>:$", line) or re.match(r"([A-Za-z_][\w.$]*):$", line):
            number += 1
            items = found[f"{head[1]} ({number})"] = []
        elif items is None:
            continue
        elif label := re.match(r"(\.L\w+):", line):
            items.append((label[1], None))
        elif listed := re.match(r"\s*([0-9a-f]+):\t(.*)$", line):
            text = re.sub(r"\s*<.*", "", listed[2]).strip()
            text = re.sub(r"^((?:b|cb|tb|j)\S*\s+(?:.*,\s*)?)([0-9a-f]+)$", r"\1A\2", text)
            items.append(("A" + listed[1], text))
        elif line.startswith("\t") and not line.strip().startswith("."):
            items.append((None, line.strip()))
    return found


def loops(items):
    """(first, last) of every loop, outer ones first; of those that begin at the same place, the longest."""
    place = {}
    for i, (label, _) in enumerate(items):
        if label:
            place.setdefault(label, i)
    ends = {}
    for i, (_, text) in enumerate(items):
        branch = BRANCH.match(text or "")
        if branch and place.get(branch[1], i) < i:
            ends[place[branch[1]]] = i
    return sorted(ends.items(), key=lambda loop: (loop[0], -loop[1]))


def cycles(body, cpu, args):
    command = ["llvm-mca", f"-mtriple={args.triple}", f"-mcpu={cpu}", f"-mattr={args.mattr}", "-iterations=100"]
    command[0] = args.mca
    done = subprocess.run(command, input="\n".join(body) + "\n", capture_output=True, text=True)
    total = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    if not total:
        raise SystemExit(f"{args.mca} -mcpu={cpu}: {done.stderr.strip()[:300]}")
    return int(total[1]) / 100


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("listing")
    parser.add_argument("function")
    parser.add_argument("--cpu", nargs="+", default=["apple-m1", "neoverse-v2"])
    parser.add_argument("--triple", default="aarch64")
    parser.add_argument("--mattr", default="+dotprod,+i8mm,+fullfp16")
    parser.add_argument("--mca", default="llvm-mca", help="16 or newer knows the newer cores")
    parser.add_argument("--with", dest="count", default="[su]dot|smmla|vpdpbusd|vpmaddubsw", help="instructions to count")
    args = parser.parse_args()
    chosen = {name: items for name, items in functions(args.listing).items() if re.search(args.function, name)}
    if not chosen:
        raise SystemExit(f"{args.listing}: no function matches {args.function}")
    for name, items in chosen.items():
        print(name)
        found = loops(items)
        for first, last in found:
            depth = sum(a <= first and last <= b for a, b in found) - 1
            within = [(a, b) for a, b in found if first <= a and b <= last and (a, b) != (first, last)]
            own = [
                text
                for i, (_, text) in enumerate(items[first : last + 1], first)
                if text and not any(a <= i <= b for a, b in within)
            ]
            plain = [text for text in own if not BRANCH.match(text) and not LEAVES.match(text)]
            if not plain:
                continue
            kinds = collections.Counter(re.match(args.count, text)[0] for text in plain if re.match(args.count, text))
            said = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
            took = "  ".join(f"{cpu} {cycles(plain, cpu, args):6.1f}" for cpu in args.cpu)
            print(f"{'  ' * depth}  {len(plain):4} instructions  {took}  {said}")


if __name__ == "__main__":
    main()
