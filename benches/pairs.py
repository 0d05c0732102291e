"""One broker binary against another, for each benchmark beside this file: the same row with both in
turns, and per figure the ratio of what they reach. Owns the options, the order of the runs and the
arithmetic; a benchmark hands over its rows.

A round runs every side once: A (`--against`), B, and A again, which is the noise. Each round begins
one side later than the one before, so that a machine that gets slower or warmer is no side's fault.
Figures of one round are divided by each other, never those of two. One run before the first round is
not counted. A row ends before the next begins; `--pairs` bounds its rounds. Stdlib only.
"""

import collections
import contextlib
import hashlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys

import harness
from harness import ROOT, WORK, Failure, build, human, machine, write_between

# What the true median lies in, with 7 pairs: between the least and the greatest (1 - 2 / 2^7).
CONFIDENCE = 0.98
# How many standard errors of a median that is on either side, and a median's error to a mean's.
SIGMAS, MEDIAN = 2.33, math.sqrt(math.pi / 2)

# One value of a run; `less`: a smaller one is better.
Figure = collections.namedtuple("Figure", "name value less", defaults=(False,))
# A row of a benchmark; `measure` starts what harness.BROKER names and returns (figures, problems).
Row = collections.namedtuple("Row", "name measure")


# ---------------------------------------------------------------- options

def arguments(parser):
    group = parser.add_argument_group("one binary against another")
    group.add_argument("--against", metavar="BROKER", type=pathlib.Path,
                       help="run the rows with this broker (A) and the one built here (B) in turns, print B / A")
    group.add_argument("--noise", action="store_true", help="the broker built here in turns with itself")
    group.add_argument("--pairs", type=int, help="rounds of a row (default 7)")
    group.add_argument("--broker", metavar="BROKER", type=pathlib.Path,
                       help="take this broker instead of the one built here")
    group.add_argument("--bound", type=float, help="a loss of so many percent is too much (default 2)")


def asked(options, parser):
    """Whether the rows are to run in pairs. Then it sets what a benchmark needs to know of that."""
    if not (options.against or options.noise):
        alone = [name for name in ("pairs", "broker", "bound") if getattr(options, name) is not None]
        if alone:
            parser.error(f"--{alone[0]} needs --against or --noise")
        return False
    if options.against and options.noise:
        parser.error("--against prints the noise too; leave --noise out")
    options.pairs = 7 if options.pairs is None else options.pairs
    options.bound = (2 if options.bound is None else options.bound) / 100
    if options.pairs < 1 or not 0 < options.bound < 1:
        parser.error("--pairs is at least 1, --bound between 0 and 100")
    options.seconds, options.runs = options.seconds or 2, 1
    for path in (options.against, options.broker):
        if path and not os.access(path, os.X_OK):
            parser.error(f"{path} is no program; name a broker that is built")
    return True


def prepare(options, *features):
    """Builds what is missing; returns each side's binary by its name."""
    if not options.no_build:
        if not options.broker:
            build(["-p", "hydrant"])
        build(["-p", "hydrant-loadgen", *features])
    ours = (options.broker or harness.BROKER).resolve()
    if not ours.exists():
        sys.exit(f"{ours} is missing; run without --no-build")
    before = options.against.resolve() if options.against else ours
    if before == ours or digest(before) == digest(ours):
        return {"A": ours, "A again": ours}
    return {"A": before, "B": ours, "A again": before}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- arithmetic

def interval(values):
    """Which of the sorted values the true median lies between, with CONFIDENCE; the least and the
    greatest while there are too few to leave any out. None if even those say too little."""
    values, left = sorted(values), 0
    while outside(len(values), left + 1) <= 1 - CONFIDENCE:
        left += 1
    if outside(len(values), left) > 1 - CONFIDENCE:
        return None
    return values[left], values[-1 - left]


def outside(count, left):
    """How often the median is not between what remains when so many are left out at each end."""
    return 2 * sum(math.comb(count, k) for k in range(left + 1)) / 2 ** count


def pairs_needed(noise, bound):
    """So many pairs tell a loss of this bound from this noise."""
    if len(noise) < 2:
        return None
    spread = statistics.stdev(math.log(ratio) for ratio in noise)
    return math.ceil((SIGMAS * MEDIAN * spread / -math.log(1 - bound)) ** 2)


def verdict(ratios, less, bound):
    """What the ratios say of a loss of more than the bound: "no", "yes", or that they do not say it."""
    between = interval([1 / ratio if less else ratio for ratio in ratios])
    if not between:
        return "too few pairs"
    if between[0] >= 1 - bound:
        return "no"
    return "yes" if between[1] < 1 - bound else "more pairs"


def ratios(rounds, figure, side, to):
    """Of each round in which both were measured."""
    return [one[side][figure] / one[to][figure] for one in rounds]


# ---------------------------------------------------------------- runs

def rotated(sides, number):
    begin = number % len(sides)
    return sides[begin:] + sides[:begin]


def rounds(row, binaries, count):
    """Yields each round: its values by side and figure, the figures and what went wrong."""
    sides = list(binaries)
    before = harness.BROKER
    try:
        harness.BROKER = binaries[sides[0]]
        row.measure()
        for number in range(count):
            values, problems = {}, set()
            for side in rotated(sides, number):
                harness.BROKER = binaries[side]
                figures, wrong = row.measure()
                if not all(figure.value > 0 for figure in figures):
                    raise Failure(f"{side}: nothing was measured: {figures}")
                values[side] = {figure.name: figure.value for figure in figures}
                problems |= {f"{side}: {problem}" for problem in wrong}
            yield values, figures, problems
    finally:
        harness.BROKER = before


def value(number):
    return human(number) if number >= 100 else f"{number:.3g}"


def shown(found):
    """Median and spread."""
    return f"{statistics.median(found):.3f}", f"{min(found):.3f}..{max(found):.3f}"


def lines(name, measured, figures, sides, bound):
    """A row's lines of the table, and the verdict of each."""
    for figure in figures:
        noise = ratios(measured, figure.name, "A again", "A")
        values = [value(statistics.median(one[side][figure.name] for one in measured)) for side in sides[:-1]]
        needed = pairs_needed(noise, bound)
        told, cells = None, []
        if len(sides) > 2:
            found = ratios(measured, figure.name, "B", "A")
            told = verdict(found, figure.less, bound)
            cells = [*shown(found), told]
        cells = [name, f"{figure.name}{', less is better' * figure.less}", *values, *cells[:2], *shown(noise),
                 "-" if needed is None else str(max(needed, 7)), *cells[2:]]
        yield "| " + " | ".join(cells) + " |", told


def heading(binaries, options):
    names = [f"{side}: `{path}` (sha256 {digest(path)[:12]})" for side, path in binaries.items() if side != "A again"]
    columns = ["row", "figure", *list(binaries)[:-1]]
    columns += ["B / A", "least..greatest"] * (len(binaries) > 2) + ["A / A", "least..greatest", "pairs it takes"]
    columns += [f"loses more than {options.bound:.1%}"] * (len(binaries) > 2)
    return [f"{machine()}; load average {os.getloadavg()[0]:.1f} at the start. {options.pairs} pairs, "
            f"{options.seconds:g} s a run, medians of the pairs' ratios. {'; '.join(names)}.", "",
            "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def run(bench, rows, binaries, options):
    """Measures the rows, prints the table and ends the program: 1 if a row loses or fails."""
    sides, kept, bad = list(binaries), {}, False
    text, notes = heading(binaries, options), []
    raw = WORK / "bench" / f"pairs-{bench}.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    print("\n".join(text), flush=True)
    with contextlib.closing(rows) as rows:
        for row in rows:
            measured, problems = [], set()
            try:
                for values, figures, wrong in rounds(row, binaries, options.pairs):
                    measured.append(values)
                    problems |= wrong
                    print(f"{bench}: {row.name}: {len(measured)} of {options.pairs}", file=sys.stderr)
            except (Failure, OSError, subprocess.SubprocessError) as error:
                problems.add(f"failed after {len(measured)} pairs: {error}")
                bad = True
            # After each row: a run that is ended early leaves what it has.
            kept[row.name] = measured
            raw.write_text(json.dumps(kept, indent=1))
            if measured:
                for line, told in lines(row.name, measured, figures, sides, options.bound):
                    text.append(line)
                    bad = bad or told == "yes"
                    print(line, flush=True)
            for problem in sorted(problems):
                notes.append(f"- {row.name}: {problem.splitlines()[0]}")
                print(f"  {row.name}: {problem}", flush=True)
    print(f"each run's figures: {raw.relative_to(ROOT)}")
    if options.write:
        write_between(f"pairs-{bench}", "\n".join(text + [""] * bool(notes) + notes))
    sys.exit(1 if bad else 0)
