"""How labeled.csv, unlabeled.csv and test.csv were made: python examples/banking77/make.py FOLDER

FOLDER holds banking77's own train.csv and test.csv (text, category). Twelve intents are drawn by seed; the labeled rows and
the unlabeled pool are disjoint draws from train.csv, the test rows are a draw from test.csv. The unlabeled file carries no
labels. Texts are taken as they are, in one line.
"""

import argparse
import csv
import random
from pathlib import Path

HERE = Path(__file__).parent
SEED, INTENTS = 0, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--labels", type=int, default=5, help="labeled rows of each intent")
    parser.add_argument("--unlabeled", type=int, default=600)
    parser.add_argument("--test", type=int, default=400)
    args = parser.parse_args()

    train, test = (read(args.source / name) for name in ("train.csv", "test.csv"))
    intents = sorted(random.Random(SEED).sample(sorted({label for _, label in train}), INTENTS))
    pool = [row for row in train if row[1] in intents]
    random.Random(SEED).shuffle(pool)
    labeled = [row for intent in intents for row in [r for r in pool if r[1] == intent][: args.labels]]
    known = {text for text, _ in labeled}
    unlabeled = [row for row in pool if row[0] not in known][: args.unlabeled]
    known |= {text for text, _ in unlabeled}
    held_out = [row for row in test if row[1] in intents and row[0] not in known]
    random.Random(SEED).shuffle(held_out)
    write("labeled.csv", ("text", "label"), sorted(labeled))
    write("unlabeled.csv", ("text",), [(text,) for text, _ in unlabeled])
    write("test.csv", ("text", "label"), held_out[: args.test])


def read(path: Path) -> list[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(" ".join(row["text"].split()), row["category"]) for row in csv.DictReader(file)]
    return list(dict.fromkeys(rows))


def write(name: str, head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with (HERE / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


if __name__ == "__main__":
    main()
