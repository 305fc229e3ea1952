"""python -m benchmarks reliability [--parts a,b] [--chaos-minutes N] [--table]: the scorecard, from what this run measured.

Each part writes benchmarks/results/reliability/<part>.json with its date; a part that is not run is shown from there. Without
arguments everything runs but the long part, chaos, which is run when --chaos-minutes says for how long. --table runs nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reliability import scorecard
from benchmarks.reliability.tests import GROUPS, run_group

RESULTS = Path(__file__).parents[1] / "results" / "reliability"
Part = dict[str, Any]


def measure_faults() -> Part:
    """Both under the same faults; celery is imported here, because --table needs no server."""
    from importlib.metadata import version

    from benchmarks.reliability import naive, ours
    from benchmarks.reliability.faults import WORDS

    us = ours.measure_all()
    say("Semift: done; now the plain Celery task")
    them = {}
    for name in naive.FAULTS:
        them[name] = naive.measure(name)
        say(f"  {WORDS[name]}: {them[name].words()}")
    rows = [
        {"fault": name, "words": WORDS[name], **{who: asdict(found[name]) for who, found in (("ours", us), ("naive", them))}}
        for name in WORDS
    ]
    return {"celery": version("celery"), "rows": rows}


def measure_promptness() -> Part:
    from benchmarks.reliability import promptness

    return promptness.measure_all()


def measure_chaos(minutes: float) -> Part:
    from tests.chaos.run import chaos

    found = chaos(60 * minutes, seed := 1, scaled=True, say=say)
    return {"seed": seed, "minutes": minutes, "backends": "PostgreSQL, Redis", **found.summary()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks reliability", description=__doc__)
    parser.add_argument("--parts", default="", help=f"comma-separated, of: faults, promptness, {', '.join(GROUPS)}")
    parser.add_argument("--chaos-minutes", type=float, default=0.0)
    parser.add_argument("--table", action="store_true", help="print what earlier runs left, run nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    every: Mapping[str, Callable[[], Part]] = {
        "faults": measure_faults,
        "promptness": measure_promptness,
        **{name: partial(run_group, name) for name in GROUPS},
    }
    chosen = [] if asked.table else [part for part in asked.parts.split(",") if part] or list(every)
    if unknown := [part for part in chosen if part not in every]:
        parser.error(f"there is no part {unknown[0]!r}; there are {', '.join(every)}")
    for part in chosen:
        say(f"{part} …")
        save(asked.results, part, every[part]())
    if asked.chaos_minutes and not asked.table:
        save(asked.results, "chaos", measure_chaos(asked.chaos_minutes))
    found = {path.stem: json.loads(path.read_text()) for path in sorted(asked.results.glob("*.json"))}
    say("\n".join(scorecard.table(found)))
    return 0 if scorecard.clean(found) else 1


def save(folder: Path, part: str, found: Part) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dated = {"date": time.strftime("%Y-%m-%d", time.gmtime()), **found}
    (folder / f"{part}.json").write_text(json.dumps(dated, indent=1, ensure_ascii=False) + "\n")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
