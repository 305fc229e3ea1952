"""python -m benchmarks NAME …: each measurement has its own arguments (NAME --help)."""

import sys
from importlib import import_module

NAMES = {
    "fpb": ("benchmarks.fpb", "one job on SemiEvol's Financial PhraseBank split"),
    "reliability": ("benchmarks.reliability.command", "what faults cost, beside a plain Celery task; the scorecard"),
    "quality": ("benchmarks.quality.command", "does it help: tasks, seeds and arms on real data"),
}


def main() -> int:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in NAMES:
        listed = "".join(f"  {key:<13}{what}\n" for key, (_, what) in NAMES.items())
        (sys.stdout if name in ("-h", "--help") else sys.stderr).write(f"{__doc__}\n\n{listed}")
        return 0 if name in ("-h", "--help") else 2
    return int(import_module(NAMES[name][0]).main(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
