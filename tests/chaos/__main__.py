"""python -m tests.chaos [--minutes 10] [--seed N] [--embedded] [--bug NAME] [--out FILE]: do the promises hold?

Exit status 0: no violation. The seed is printed: the same one repeats the plan of faults.
"""

import argparse
import json
import secrets
import sys
import time
from pathlib import Path

from tests.chaos.planted import BUGS
from tests.chaos.run import chaos


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--embedded", action="store_true", help="SQLite and a folder in place of PostgreSQL and Redis")
    parser.add_argument("--bug", choices=tuple(BUGS), default="", help="plant one, which must be caught")
    parser.add_argument("--out", type=Path, default=None, help="also write the summary here, as JSON")
    asked = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if asked.seed is None else asked.seed
    write(f"seed {seed}")
    outcome = chaos(60 * asked.minutes, seed, scaled=not asked.embedded, bug=asked.bug, say=write)
    backends = "SQLite, folder" if asked.embedded else "PostgreSQL, Redis"
    about = {"date": time.strftime("%Y-%m-%d", time.gmtime()), "seed": seed, "minutes": asked.minutes, "backends": backends}
    found = about | outcome.summary()
    write(json.dumps(found, indent=1))
    if asked.out:
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if outcome.violations else 0


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
