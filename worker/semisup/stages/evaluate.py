"""Greedy answers on the held-out set, strictly parsed. The same code for every arm."""

from collections.abc import Sequence

import numpy as np

from worker.semisup.data import Adapter, Example, Neighbours, Prediction
from worker.semisup.lm import Lm
from worker.semisup.seeds import derive_seed
from worker.semisup.stages.neighbours import knn_vote
from worker.semisup.stages.views import one_thread, self_trained
from worker.semisup.task import Task

MOST_ROWS = 20_000  # of the pool, for the classifier


def evaluate(
    task: Task, adapter: Adapter | None, examples: Sequence[Example], neighbours: Neighbours | None
) -> list[Prediction]:
    """One prediction per example. `neighbours` given: they are shown in the prompt; else the prompt is plain."""
    with task.lab.lm(adapter) as lm:
        return predictions_of(task, lm, examples, neighbours)


def predictions_of(task: Task, lm: Lm, examples: Sequence[Example], neighbours: Neighbours | None) -> list[Prediction]:
    prompts = [task.prompt(example, neighbours) for example in examples]
    outputs = lm.generate(prompts, temperature=0.0, seeds=[0] * len(prompts), max_new_tokens=task.max_new_tokens)
    given = [task.answers.parse(made.text, example.query) for example, made in zip(examples, outputs, strict=True)]
    meaning = task.answers.meaning(task.lab.embed, [(a, e.answer) for a, e in zip(given, examples, strict=True)])
    return [
        Prediction(e.id, answer, made.mean_nll, task.answers.same(answer, e.answer, meaning), made.tokens)
        for e, made, answer in zip(examples, outputs, given, strict=True)
    ]


def evaluate_knn(task: Task, examples: Sequence[Example], neighbours: Neighbours) -> list[Prediction]:
    """The similarity-weighted vote of the neighbours: no LM at all. Its mean_nll is 0, since nothing is generated."""
    k, near = task.spec.propagation.k, neighbours.ids
    compared = ([*(task.labeled[i].answer for i in near[e.id][:k]), e.answer] for e in examples)
    meaning = task.answers.meaning(task.lab.embed, compared)
    out = []
    for example in examples:
        answer, _ = knn_vote(neighbours, example.query, task.labeled, task.answers, k, meaning)
        out.append(Prediction(example.id, answer, 0.0, task.answers.same(answer, example.answer, meaning), 0))
    return out


@one_thread()
def evaluate_classifier(task: Task, examples: Sequence[Example]) -> list[Prediction]:
    """Self-trained logistic regression on sentence embeddings of the labeled and unlabeled rows: what no LM is needed for.

    For closed sets of answers. It learns before it is asked: `examples` are no part of what it trains itself on. Of a large
    pool it sees MOST_ROWS, drawn by the job's seed: a baseline shall not hold a job up.
    """
    labeled, pool = task.split.labeled, task.split.unlabeled
    generator = np.random.Generator(np.random.Philox(derive_seed(task.spec.seed, "classifier")))
    drawn = sorted(generator.permutation(len(pool))[:MOST_ROWS].tolist())
    known, others = task.lab.embed([e.query.question for e in labeled]), task.lab.embed([pool[i].question for i in drawn])
    answers = [e.answer for e in labeled]
    classifier = self_trained(np.concatenate([known, others]), range(len(labeled)), answers)
    units = task.lab.embed([e.query.question for e in examples])
    said = classifier.predict(units).tolist() if classifier and len(units) else answers[:1] * len(examples)
    return [
        Prediction(e.id, given, 0.0, task.answers.same(given, e.answer), 0) for e, given in zip(examples, said, strict=True)
    ]
