"""python -m benchmarks quality [run|table]: see benchmarks/quality/README.md.

run     work off every missing piece, then print the table (the default)
table   the table from the results alone
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quality.errors import BenchError, NoData
from benchmarks.quality.tasks import PROJECT

RESULTS = PROJECT / "benchmarks" / "results"
WORK = PROJECT / ".semift" / "bench"
LM = "bundled:3"  # what benchmarks/results was made with; six layers cost twice as much and brought nothing (docs/LOG.md)
HELPER = ("--jobs", "1", "--helper")  # appended for the processes that --jobs starts
QUICK = ("--tasks", "quick", "--seeds", "0")


def main(argv: Sequence[str]) -> int:
    args = _arguments(argv)
    try:
        if args.what == "run":
            _run(args, argv)
    except NoData as error:
        sys.stderr.write(f"{error} Nothing was run.\n\n")
        sys.stderr.flush()  # before the table, where both go to one file
        return _table(args) or 2
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return _table(args)


def _run(args: argparse.Namespace, argv: Sequence[str]) -> None:
    from benchmarks.quality.arms import load_arms
    from benchmarks.quality.results import CODE
    from benchmarks.quality.runner import Plan, run, say
    from benchmarks.quality.stages import CachedLab
    from benchmarks.quality.tasks import find_tasks

    tasks, arms = find_tasks(args.tasks), load_arms(args.arms_file)
    if args.data is None and any(task.root == "data" for task in tasks):
        raise NoData(
            "The benchmark runs on real data sets: give the folder that holds banking77/, clinc150/ and fpb/ as --data PATH, "
            "or --quick for a subset that needs no other files."
        )
    if args.quick and not args.helper:
        shutil.rmtree(WORK / "quick", ignore_errors=True)  # from scratch, as it says
    plan = Plan(
        tasks=tasks,
        seeds=args.seeds,
        chosen=arms.pick(args.arms, quick=args.quick),
        arms=arms,
        data=args.data,
        results=args.results,
        work=args.work,
        code="any" if args.any_code else CODE,
        command=_shown(argv),
        force=args.force,
        dev=args.dev,
        minutes=args.minutes,
    )
    helpers = [
        subprocess.Popen([sys.executable, "-m", "benchmarks", "quality", *argv, *HELPER], cwd=PROJECT)
        for _ in range(args.jobs - 1)
    ]
    try:
        lab = CachedLab(args.lm, name=args.lm_name, cache=PROJECT / ".semift" / "lms", device=args.device, threads=args.threads)
        ended = run(plan, lab)
    finally:
        for helper in helpers:
            helper.wait()
    say(", ".join(f"{count} {word}" for word, count in sorted(ended.items())) or "nothing to do")


def _table(args: argparse.Namespace) -> int:
    if args.no_table or args.helper:
        return 0
    from benchmarks.quality import results
    from benchmarks.quality.table import table

    text = table(results.read_all(args.results))
    sys.stdout.write(text)
    if args.results.is_dir():
        (args.results / "TABLE.md").write_text(text, encoding="utf-8")
    return 0


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=["run", "table"], default="run")
    parser.add_argument("--quick", action="store_true", help="one task from the project's own files, one seed, a few arms")
    parser.add_argument("--data", type=Path, help="folder that holds the data sets' folders (banking77/, clinc150/, fpb/)")
    parser.add_argument("--tasks", help="comma-separated names or task files; default: all that are not optional")
    parser.add_argument("--seeds", type=seeds, default=seeds("0-4"), help="e.g. 0-4 or 0,2,7")
    parser.add_argument("--arms", help="comma-separated names; default: all of arms.yaml")
    parser.add_argument("--arms-file", type=Path, help="other arms than benchmarks/quality/arms.yaml")
    parser.add_argument("--lm", default=LM, help="folder of a causal LM, or bundled:N, bundled:N+reader")
    parser.add_argument("--lm-name", help="what results call it; default: --lm, or the folder's own name")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of each process; 0: all")
    parser.add_argument("--jobs", type=int, default=1, help="processes that work on the same results")
    parser.add_argument("--results", type=Path, help=f"default: {RESULTS.relative_to(PROJECT)}")
    parser.add_argument("--work", type=Path, help=f"shared stages and embeddings; default: {WORK.relative_to(PROJECT)}")
    parser.add_argument(
        "--dev", action="store_true", help="test on left-over training rows, test files closed: for choosing settings"
    )
    parser.add_argument("--force", action="store_true", help="run pieces again whose result is there, stale ones included")
    parser.add_argument("--any-code", action="store_true", help="take over stages that another version of the code made")
    parser.add_argument("--minutes", type=float, help="begin no piece after so many minutes")
    parser.add_argument("--no-table", action="store_true")
    parser.add_argument("--helper", action="store_true", help=argparse.SUPPRESS)  # a process that --jobs started
    args = parser.parse_args([*QUICK, *argv] if "--quick" in argv else argv)
    kind = "quick" if args.quick else "dev" if args.dev else None
    args.work = (args.work or WORK / (kind or "")).absolute()
    args.results = (args.results or (args.work / "results" if kind else RESULTS)).absolute()
    args.lm_name = args.lm_name or (Path(args.lm).name if "/" in args.lm else args.lm)
    return args


def seeds(text: str) -> list[int]:
    """`0-4,7` as [0, 1, 2, 3, 4, 7]."""
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        if not low.isdecimal() or not (high or low).isdecimal():
            raise argparse.ArgumentTypeError(f"{part!r} is no seed or range of seeds such as 0-4")
        found += range(int(low), int(high or low) + 1)
    return found


def _shown(argv: Sequence[str]) -> str:
    """The command as it was given, without its paths, which are nobody's business."""
    given = argv[: -len(HELPER)] if tuple(argv[-len(HELPER) :]) == HELPER else argv
    shown = [Path(word).name if "/" in word else word for word in given]
    return " ".join(["python -m benchmarks quality", *shown])
