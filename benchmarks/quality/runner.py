"""Works off (task, seed, arm) pieces. Stop it anywhere and give the command again; several may run on the same folder."""

import sys
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.quality import results
from benchmarks.quality.arms import Arm, Arms
from benchmarks.quality.bench import Bench, Piece, sha
from benchmarks.quality.draw import draw
from benchmarks.quality.errors import BenchError
from benchmarks.quality.locks import Busy, busy, held
from benchmarks.quality.rows import Loaded, load_rows
from benchmarks.quality.run_piece import run_piece
from benchmarks.quality.stages import CachedLab
from benchmarks.quality.tasks import TaskFile

NO_TEST = frozenset(("train", "labeled", "unlabeled"))
BAND = 10  # of priority
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """What to run and where. `minutes`: no piece is begun after that long; `dev`: test files stay closed."""

    tasks: Sequence[TaskFile]
    seeds: Sequence[int]
    chosen: Sequence[Arm]
    arms: Arms
    data: Path | None
    results: Path
    work: Path
    code: str
    command: str
    force: bool = False
    dev: bool = False
    minutes: float | None = None


def run(plan: Plan, lab: CachedLab) -> Counter[str]:
    """How many pieces ended as done, kept, failed, stale or elsewhere (another process has them).

    A piece whose stages another process is just making comes later: nothing is done twice, and nobody stands and waits.
    """
    started, began = time.monotonic(), _now()
    ended: Counter[str] = Counter()
    rows: dict[str, Loaded] = {}
    groups, unchanged = deque(_order(plan)), 0
    while groups:
        task, seed, arms = groups.popleft()
        bench: Bench | None = None
        later: list[Arm] = []
        for arm in arms:
            if plan.minutes is not None and time.monotonic() - started > 60 * plan.minutes:
                ended["not begun"] += 1
                continue
            if _waits(plan, task, seed, arm):
                later.append(arm)
            else:
                bench = bench or _bench(plan, lab, rows, task, seed)
                ended[_one(plan, bench, arm, began)] += 1
        if later:
            groups.append((task, seed, later))
        unchanged = unchanged + 1 if later == arms else 0
        if groups and unchanged >= len(groups):
            time.sleep(POLL_SECONDS)
            unchanged = 0
    return ended


def _order(plan: Plan) -> Iterator[tuple[TaskFile, int, list[Arm]]]:
    """The tens of priority outermost, then seeds, then tasks: a run that is stopped early has whole comparisons."""
    for band in sorted({arm.priority // BAND for arm in plan.chosen}):
        arms = [arm for arm in plan.chosen if arm.priority // BAND == band]
        for seed in plan.seeds:
            for task in plan.tasks:
                yield task, seed, arms


def _waits(plan: Plan, task: TaskFile, seed: int, arm: Arm) -> bool:
    """Whether another process is at the piece of which this arm takes most of its stages over."""
    shares = (arm.of, arm.same_size_as) if arm.kind in ("job", "matched") else ()
    paths = [results.path_of(plan.results, task.name, seed, name) for name in shares if name]
    return any(busy(path.with_suffix(".lock")) for path in paths)


def _bench(plan: Plan, lab: CachedLab, rows: dict[str, Loaded], task: TaskFile, seed: int) -> Bench:
    if task.name not in rows:
        rows[task.name] = load_rows(task, plan.data, **({"roles": NO_TEST} if plan.dev else {}))
    drawn = draw(task, rows[task.name], seed, dev=plan.dev)
    split = drawn.split
    texts = [q.question for q in split.unlabeled]
    texts += [e.query.question for e in (*split.labeled, *split.held_out, *split.validation)]
    lab.remember(texts, plan.work / "embeddings" / task.name / str(seed) / f"{sha(sorted(set(texts)))[:16]}.npz")
    return Bench(task, seed, drawn, lab, plan.arms, plan.work, plan.code, watch)


def _one(plan: Plan, bench: Bench, arm: Arm, began: str) -> str:
    path = results.path_of(plan.results, bench.task.name, bench.seed, arm.name)
    name = f"{bench.task.name} seed {bench.seed} {arm.name}"
    try:
        piece = bench.piece(arm)
        fingerprint = piece.fingerprint
    except BenchError as error:  # a pool too small for this ratio, a spec the algorithm no longer takes
        say(f"{name}: cannot run: {error}")
        return "cannot run"
    try:
        with held(path.with_suffix(".lock")):
            record = results.read(path)
            state = results.state(record, fingerprint)
            fresh = record is not None and record["date"] >= began  # by another process, during this run
            if state == "stale" and not plan.force:
                say(f"{name}: stale (made from another spec, data or base LM); --force runs it again")
                return "stale"
            if state == "done" and (fresh or not plan.force):
                return "kept"
            if state == "failed" and fresh:
                return "failed"
            return _run(piece, path, name, plan.command)
    except Busy:
        return "elsewhere"


def _run(piece: Piece, path: Path, name: str, command: str) -> str:
    started = time.monotonic()
    record = results.header(piece, command)
    try:
        record |= run_piece(piece)
        word = f"{100 * record['accuracy']:.1f} %"
    except Exception as error:  # one piece's failure is written down, and the rest goes on
        sys.stderr.write(f"\n{''.join(traceback.format_exception(error))}\n")
        record["error"] = {"type": type(error).__name__, "code": getattr(error, "code", None), "message": str(error)[:500]}
        word = f"failed: {type(error).__name__}: {str(error)[:120]}"
    record["wall_seconds"] = round(time.monotonic() - started, 2)
    results.write(path, record)
    say(f"{name}: {word} ({record['wall_seconds']:.0f} s)")
    return "failed" if "error" in record else "done"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def say(text: str) -> None:
    start, end = ("\r", "\x1b[K") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{start}{datetime.now():%H:%M:%S} {text}{end}\n")
    sys.stderr.flush()


def watch(stage: str, step: int, total: int, metrics: Mapping[str, float]) -> None:
    if sys.stderr.isatty():
        loss = f"  loss {metrics['loss']:.3f}" if "loss" in metrics else ""
        sys.stderr.write(f"\r{stage:<34} {step}/{total}{loss}\x1b[K")
        sys.stderr.flush()
