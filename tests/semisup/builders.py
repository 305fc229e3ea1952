"""Rows whose answers follow from their text, so that a reader can check every expectation by hand."""

from worker.semisup.data import Ballot, Candidate, Example, Message, Query, Vote

COLOURS = ("red", "blue")

# Two words and an end are all that a random LM must learn to say, so that some votes parse.
TINY_JOB = {
    "answer": {"kind": "label", "labels": ["red", "blue"]},
    "hyperparameters": {"learning_rate": 0.03, "batch_size": 8, "lora": {"r": 8, "alpha": 16}},
    "warmup": {"n_epochs": 30, "format": "in_context"},
    "evolve": {"n_epochs": 4},
    "selection": {"strategy": "all"},
    "propagation": {"k": 2},
}
# The paper's steps, where a test must know which stages there are.
PAPER_JOB = {
    "profile": "paper",
    "answer": {"kind": "label", "labels": ["red", "blue"]},
    "hyperparameters": {"learning_rate": 0.03, "batch_size": 8, "lora": {"r": 4, "alpha": 8}},
    "warmup": {"n_epochs": 20, "format": "in_context"},
    "evolve": {"n_epochs": 2},
    "selection": {"strategy": "all"},
    "propagation": {"k": 2, "chunk_size": 4},
}


def query(identity: str, text: str, options: tuple[str, ...] = ()) -> Query:
    return Query(identity, (Message("user", text),), options)


def example(identity: str, text: str, answer: str, options: tuple[str, ...] = ()) -> Example:
    return Example(query(identity, text, options), answer, answer)


def examples(prefix: str, count: int, start: int = 0) -> tuple[Example, ...]:
    """Labels red and blue in turn; the text names the colour."""
    return tuple(
        example(f"{prefix}-{i:06d}", f"item {i} is painted {COLOURS[i % 2]}", COLOURS[i % 2])
        for i in range(start, start + count)
    )


def queries(prefix: str, count: int, start: int = 1000) -> tuple[Query, ...]:
    return tuple(e.query for e in examples(prefix, count, start))


def vote(answer: str | None, nll: float = 0.5, name: str = "a") -> Vote:
    return Vote(name, answer or "?", answer, nll, 2)


def ballot(*answers: str | None, identity: str = "u-1", nlls: tuple[float, ...] = ()) -> Ballot:
    scores = nlls or (0.5,) * len(answers)
    return Ballot(identity, tuple(vote(a, n, f"c{i}") for i, (a, n) in enumerate(zip(answers, scores, strict=True))))


def candidate(identity: str, answer: str | None, nll: float, resolved_by: str = "agreement") -> Candidate:
    return Candidate(identity, answer or "", answer, nll, 1.0, resolved_by, (vote(answer, nll),))  # type: ignore[arg-type]
