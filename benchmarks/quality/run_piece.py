"""What each kind of arm does, and what is written down of it: per-row correctness, not only a mean."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.quality.bench import Piece, random_share
from benchmarks.quality.cheap import CHEAP
from worker.semisup.data import Adapter, Example, Prediction
from worker.semisup.round import RoundResult
from worker.semisup.spec import RandomShare
from worker.semisup.stages.evaluate import evaluate
from worker.semisup.stages.train import choose_stop, labels_only_early, labels_only_matched, own_neighbours
from worker.semisup.task import Task

Result = dict[str, Any]


def run_piece(piece: Piece) -> Result:
    """accuracy, n, correct and validation as strings of 0 and 1, and what else the arm has to show. Raises as its stages do."""
    return KINDS[piece.arm.kind](piece)


def cheap(piece: Piece) -> Result:
    task = piece.task()
    queries = [e.query for e in (*task.split.held_out, *task.split.validation)] + list(task.split.unlabeled)
    answers = CHEAP[piece.arm.function or ""](task, queries)
    told = dict(zip([query.id for query in queries], answers, strict=True))

    def right(examples: Sequence[Example]) -> str:
        return bits(task.answers.same(told[e.id], e.answer) for e in examples)

    gold = {q.id: piece.draw.gold[q.id] for q in task.split.unlabeled if q.id in piece.draw.gold}
    pseudo = (
        {"pool": len(gold), "accuracy_all": share([task.answers.same(told[i], answer) for i, answer in gold.items()])}
        if gold
        else None
    )
    return scored(right(task.split.held_out), right(task.split.validation)) | {"pseudo": pseudo}


def vanilla(piece: Piece) -> Result:
    return judged(piece, piece.task(), None, "vanilla")


def early(piece: Piece) -> Result:
    """The strict control, and with all gold answers as labels the ceiling."""
    task = piece.task(piece.draw.with_gold() if piece.arm.kind == "gold" else None)
    keep = piece.keep()
    piece.bench.lab.tick = keep.tick
    stop = keep("labels-only/stop", lambda: choose_stop(task, piece.horizon()))
    adapter = keep("labels-only/early", lambda: labels_only_early(task, stop))
    found = {"horizon": stop.horizon, "epochs": stop.epochs, "steps": adapter.steps}
    return judged(piece, task, adapter, "labels-only", keep) | {"training": found}


def matched(piece: Piece) -> Result:
    """From the warm-up of the arm it is matched with, for the steps of that arm's evolve stage: so that arm is run first."""
    job = piece.other(piece.arm.of or "")
    task, keep, theirs = piece.task(), piece.keep(), job.keep()
    piece.bench.lab.tick = theirs.tick
    last = job.rounds(job.task(), theirs)[-1]
    piece.bench.lab.tick = keep.tick
    steps = (
        last.evolved.steps if last.evolved else task.recipe("evolve", len(task.split.labeled)).steps(len(task.split.labeled))
    )
    start = last.warm if piece.spec.evolve.init == "warmup" else None
    shown = keep.within("round-1")("own-neighbours", lambda: own_neighbours(task))
    adapter = keep("labels-only/matched", lambda: labels_only_matched(task, start, steps, shown))
    return judged(piece, task, adapter, "labels-only", keep) | {"training": {"steps": adapter.steps}}


def job(piece: Piece) -> Result:
    if piece.arm.same_size_as is not None:
        piece = of_the_same_size(piece)
    task, keep = piece.task(), piece.keep()
    piece.bench.lab.tick = keep.tick
    rounds = []
    for result in piece.rounds(task, keep):
        inside = keep.within(f"round-{result.number}")
        checked = inside.map("validate", task.split.validation, lambda part, r=result: evaluate(task, r.evolved, part, None))  # type: ignore[misc]
        rounds.append(one_round(piece, task, result, checked))
    last = rounds[-1]
    return scored(last["correct"], last["validation"]) | {"pseudo": last["pseudo"], "rounds": rounds, "seconds": keep.seconds()}


def of_the_same_size(piece: Piece) -> Piece:
    """With a random selector that keeps the other arm's share; of everything there is but one choice, which the other made."""
    other = piece.other(piece.arm.same_size_as or "")
    keep = other.keep()
    piece.bench.lab.tick = keep.tick
    size = random_share(other.rounds(other.task(), keep)[0])
    if size == 1:
        return replace(piece, spec=other.spec)
    return replace(piece, spec=piece.spec.model_copy(update={"selection": RandomShare(share=size)}))


def one_round(piece: Piece, task: Task, result: RoundResult, checked: Sequence[Prediction]) -> Result:
    samples, gold = result.selection.samples, piece.draw.gold

    def precision(verdicts: tuple[str, ...]) -> float | None:
        """Share of right pseudo-labels; a row without one counts as wrong, as it would if it had to be answered."""
        return share(
            [
                task.answers.same(s.pseudo_label, gold[s.query_id])
                for s in samples
                if s.query_id in gold and s.verdict in verdicts
            ]
        )

    pseudo = {
        "pool": len(samples),
        "consistent": result.consistent,
        "answered": sum(s.pseudo_label is not None for s in samples),
        "selected": result.selection.selected,
        "trained_on": len(result.trained_on),
        "accuracy_all": precision(("selected", "rejected")),
        "accuracy_selected": precision(("selected",)),
    }
    training = {"steps": result.evolved.steps, "loss": result.evolved.final_loss} if result.evolved else None
    right = scored(bits(p.correct for p in result.predictions), bits(p.correct for p in checked))
    return right | {"number": result.number, "pseudo": pseudo, "training": training}


def judged(piece: Piece, task: Task, adapter: Adapter | None, stage: str, keep: Any = None) -> Result:
    """The adapter's greedy answers on test and validation rows."""
    keep = keep or piece.keep()
    piece.bench.lab.tick = keep.tick
    tested = keep.map(f"{stage}/evaluate", task.split.held_out, lambda part: evaluate(task, adapter, part, None))
    checked = keep.map(f"{stage}/validate", task.split.validation, lambda part: evaluate(task, adapter, part, None))
    right = scored(bits(p.correct for p in tested), bits(p.correct for p in checked))
    return right | {"seconds": keep.seconds()}


KINDS: Mapping[str, Callable[[Piece], Result]] = {
    "cheap": cheap,
    "vanilla": vanilla,
    "early": early,
    "gold": early,
    "matched": matched,
    "job": job,
}


def scored(correct: str, validation: str) -> Result:
    return {
        "accuracy": share([bit == "1" for bit in correct]),
        "n": len(correct),
        "correct": correct,
        "validation_accuracy": share([bit == "1" for bit in validation]),
        "validation": validation,
    }


def bits(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
