"""python -m benchmarks fpb FOLDER --out OUT: the whole method on SemiEvol's Financial PhraseBank split, without a service.

FOLDER holds labeled.csv, unlabeled.csv and test.csv (question, options, answer). The first --labels rows of a seeded shuffle
of labeled.csv stay labeled; the rest joins the unlabeled pool. A run that was stopped goes on when given again.
"""

import argparse
import csv
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COLUMNS = ("question", "options", "answer")
SPEC = """\
# One labeled row of this data set is in its test file too: it is dropped there and the report says so.
evaluation: {on_leakage: drop}
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks fpb", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lm", default="bundled:3")
    parser.add_argument("--out", type=Path, default=Path(".semift/benchmarks/fpb"))
    args = parser.parse_args(argv)

    args.out.mkdir(parents=True, exist_ok=True)
    labeled = rows(args.folder / "labeled.csv")
    random.Random(args.seed).shuffle(labeled)
    write(args.out / "labeled.csv", labeled[: args.labels])
    write(args.out / "unlabeled.csv", labeled[args.labels :] + rows(args.folder / "unlabeled.csv"))
    write(args.out / "test.csv", rows(args.folder / "test.csv"))
    (args.out / "spec.yaml").write_text(f"{SPEC}seed: {args.seed}\n", encoding="utf-8")
    command = [sys.executable, "-m", "worker.semisup", *(str(args.out / name) for name in ("spec.yaml", "labeled.csv"))]
    command += [str(args.out / "unlabeled.csv"), str(args.out / "run"), "--test", str(args.out / "test.csv"), "--lm", args.lm]
    return subprocess.run(command, check=False).returncode


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(path: Path, found: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
