"""What flows between stages: frozen values, one type per stage output. No torch, no tables, no network.

A `Query` has no answer field at all, so no code that handles unlabeled rows can reach a gold answer (methods.md A1).
Arrays are tuples: every value here has one canonical JSON form, which is what `keep` stores and hashes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["selected", "rejected"]


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Query:
    """One unlabeled row. `messages` is the prompt (it ends with a user turn); `options` are a choice's texts, else empty."""

    id: str
    messages: tuple[Message, ...]
    options: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The last user turn: what neighbours are looked up by."""
        return next(m.content for m in reversed(self.messages) if m.role == "user")


@dataclass(frozen=True, slots=True)
class Example:
    """One labeled row: a query, the response to train on, and that response's parsed answer (canonical form)."""

    query: Query
    response: str
    answer: str
    weight: float = 1.0

    @property
    def id(self) -> str:
        return self.query.id


@dataclass(frozen=True, slots=True)
class Split:
    """All the data of a job. `held_out` is read by evaluation only; gold answers of `unlabeled` are not here.

    `validation` decides what a job may decide by looking at answers: which adapter it keeps, and when rounds stop.
    """

    labeled: tuple[Example, ...]
    unlabeled: tuple[Query, ...]
    held_out: tuple[Example, ...]
    validation: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained adapter (or full weights) as a folder and the sha256 of its weights. Never a live network."""

    path: str
    kind: Literal["lora", "full"]
    sha256: str
    steps: int
    trained_tokens: int  # response tokens that carried loss, over all steps
    final_loss: float  # mean over the last tenth of the steps, nats per response token
    notes: tuple[str, ...] = ()  # what the training had to do to get through: a smaller micro-batch, a step left out


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each query, its k nearest labeled examples, nearest first. Similarity is the cosine, in [-1, 1]."""

    ids: Mapping[str, tuple[str, ...]]
    similarity: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Views:
    """collaborator -> row id -> its most probable answers, best first: what classifiers on embeddings say (stages/views.py)."""

    tables: Mapping[str, Mapping[str, tuple[tuple[str, float], ...]]]


@dataclass(frozen=True, slots=True)
class Vote:
    """One collaborator's inference on one query. `answer` is None when nothing could be parsed: a failed vote."""

    collaborator: str
    response: str
    answer: str | None
    mean_nll: float  # nats per generated token, the end token included
    tokens: int
    scored: bool = True  # False: the collaborator gave no log-probs, and mean_nll is the mean of the row's scored votes
    error: str | None = None  # why there is no response at all
    scores: tuple[tuple[str, float], ...] = ()  # a classifier's most probable answers with their probabilities, best first


@dataclass(frozen=True, slots=True)
class Ballot:
    """All votes on one query, in collaborator order."""

    query_id: str
    votes: tuple[Vote, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A query with its pseudo-response, before selection. `answer` is None when no vote could be used."""

    query_id: str
    response: str
    answer: str | None
    mean_nll: float
    agreement: float  # share of all votes, failed ones included, that gave `answer`
    resolved_by: Literal["agreement", "justify", "vote", "weighted_vote", "drop", "single", "pool"]
    votes: tuple[Vote, ...]
    justification: Vote | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One labeled row answered by a network that was not trained on it: what confidence is measured against."""

    id: str
    fold: int
    answer: str | None  # the resolved pseudo-label; None: nothing usable
    mean_nll: float
    agreement: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far votes can be trusted, measured on labeled rows outside each network's own training (cross-fitting).

    `weights`: collaborator -> exponent of its distribution in the pool; 0 means it was gated out. Empty without a pool.
    `tokens`: stage inside calibrate -> tokens trained on or generated. `notes`: what the folds' trainings had to do.
    """

    mode: Literal["cross_fit", "held_out"]
    folds: int
    judged: tuple[Judged, ...]
    weights: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Agreed:
    """Ballots sorted into settled candidates and those still disputed."""

    settled: tuple[Candidate, ...]
    disputed: tuple[Ballot, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """The full record of one unlabeled row in one round: what the samples API and `selected.jsonl` show."""

    query_id: str
    round: int
    prompt: str
    pseudo_response: str
    pseudo_label: str | None
    mean_nll: float
    agreement: float
    resolved_by: str
    verdict: Verdict
    reason: str
    neighbours: tuple[tuple[str, float], ...]
    votes: tuple[Vote, ...]
    justification: Vote | None = None


def unanimous(one: Candidate | Sample) -> bool:
    """Whether all votes gave the answer; a pool may settle on what none of them gave."""
    return one.resolved_by in ("agreement", "single") or (one.resolved_by == "pool" and one.agreement == 1.0)


@dataclass(frozen=True, slots=True)
class Selection:
    """Every candidate with its verdict and reason, in upload order, and the numbers behind the cut.

    `guarantee` is what the risk_control selector promises, or could not (docs/selection.md). `note`: what a reader must know.
    """

    samples: tuple[Sample, ...]
    threshold: float | None
    selected: int
    rejected: int
    reasons: Mapping[str, int] = field(default_factory=dict)
    guarantee: Mapping[str, Any] | None = None
    note: str | None = None

    def chosen(self) -> tuple[Sample, ...]:
        return tuple(sample for sample in self.samples if sample.verdict == "selected")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One held-out answer of one arm."""

    id: str
    answer: str | None
    mean_nll: float
    correct: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class StopChoice:
    """Which epoch the labels-only arm stops at, chosen on a labeled dev split: (epochs, dev accuracy) pairs tried.

    `horizon` is the number of epochs its learning-rate schedule was laid out for. `tokens`: trained on, and generated on the
    dev split; `notes` as an adapter's, of the training that was looked at.
    """

    epochs: int
    horizon: int
    tried: tuple[tuple[int, float], ...]
    dev_size: int
    tokens: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The comparison, as plain JSON (see docs/report.md for every key). `body` is what report.json holds."""

    body: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of artefact files, stored file by file."""

    path: str
    sha256: str


# What a stage may return: `keep` finds the type again by the name in the manifest.
STORED: Mapping[str, type] = {
    kind.__name__: kind
    for kind in (
        Adapter,
        Neighbours,
        Views,
        Vote,
        Ballot,
        Candidate,
        Judged,
        Calibration,
        Agreed,
        Sample,
        Selection,
        Prediction,
        StopChoice,
        Report,
        Folder,
    )
} | {"Empty": type(None)}
