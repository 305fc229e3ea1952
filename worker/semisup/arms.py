"""The arms of the comparison, all on the same held-out rows: what a sceptical reader would ask to see beside `evolved`."""

from dataclasses import dataclass

from worker.semisup.data import Adapter, Neighbours, Prediction, StopChoice
from worker.semisup.keep import Keep
from worker.semisup.round import RoundResult, joined
from worker.semisup.stages.evaluate import evaluate, evaluate_classifier, evaluate_knn
from worker.semisup.stages.neighbours import neighbours_of
from worker.semisup.stages.train import choose_stop, horizon, labels_only_early, labels_only_matched, own_neighbours
from worker.semisup.task import Task


@dataclass(frozen=True)
class Arm:
    """`name` is stable (the report's key). `neighbours`: labeled examples were shown at test time."""

    name: str
    title: str
    predictions: tuple[Prediction, ...]
    neighbours: bool = False
    adapter: Adapter | None = None
    stop: StopChoice | None = None


def run_arms(task: Task, last: RoundResult | None, keep: Keep) -> list[Arm]:
    """Every arm the spec asks for. `last` is the round whose evolved adapter is compared; None: there was no unlabeled data."""
    held_out, labeled = task.split.held_out, task.split.labeled
    queries = [example.query for example in held_out]
    near = keep("arms/neighbours", lambda: neighbours_of(task.lab, queries, labeled, task.spec.propagation.k))

    def lm_arms(name: str, title: str, adapter: Adapter | None, stop: StopChoice | None = None) -> list[Arm]:
        plain = keep.map(f"arms/{name}", held_out, lambda part: evaluate(task, adapter, part, None))
        arms = [Arm(name, title, plain, adapter=adapter, stop=stop)]
        if task.spec.evaluation.with_neighbours:
            shown = keep.map(f"arms/{name}-in-context", held_out, lambda part: evaluate(task, adapter, part, near))
            arms.append(Arm(f"{name}_in_context", f"{title}, neighbours shown", shown, True, adapter))
        return arms

    arms: list[Arm] = []
    if task.spec.evaluation.baselines or not last:
        arms += lm_arms("vanilla", "vanilla (base LM)", None)
        arms.append(Arm("knn_vote", "kNN vote (no LM)", tuple(evaluate_knn(task, held_out, near)), True))
        if task.answers.closed:
            said = keep("arms/classifier", lambda: evaluate_classifier(task, held_out))
            arms.append(Arm("classifier", "classifier on embeddings (no LM)", tuple(said)))
        reach = horizon(task, last.warm, last.evolved) if last else horizon(task)
        origin = None if last else task.start  # a control knows nothing of unlabeled rows, those of earlier jobs included
        stop = keep("labels-only/stop", lambda: choose_stop(task, reach, origin))
        early = keep("labels-only/early", lambda: labels_only_early(task, stop, origin))
        arms += lm_arms("labels_only_early", "labels-only, early-stopped", early, stop)
    if not last:
        return arms
    if task.spec.evaluation.baselines and last.evolved and last.trained_on:
        steps, start = last.evolved.steps, last.warm if task.spec.evolve.init == "warmup" else None
        if start and task.start:  # the warm-up went on from an earlier job: its steps are made from the base LM instead
            steps, start = steps + start.steps, None
        shown = _own(task, keep)
        matched = keep("labels-only/matched", lambda: labels_only_matched(task, start, steps, shown))
        arms += lm_arms("labels_only_matched", "labels-only, step-matched", matched)
    arms.append(Arm("evolved", "evolved (SemiEvol)", last.predictions, adapter=last.evolved))
    if task.spec.evaluation.with_neighbours:
        inside = keep.map("arms/evolved-in-context", held_out, lambda part: evaluate(task, last.evolved, part, near))
        arms.append(Arm("evolved_in_context", "evolved (SemiEvol), neighbours shown", inside, True, last.evolved))
    return arms


def _own(task: Task, keep: Keep) -> Neighbours:
    return joined(keep.within("round-1")("own-neighbours", lambda: own_neighbours(task)))
