"""What every stage of a job shares: the lab, the spec, the resolved answer kind, and how a row becomes tokens."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from worker.semisup.answers import Answers, is_reasoned, resolve_answers, with_answers
from worker.semisup.automatic import settle
from worker.semisup.data import Adapter, Example, Neighbours, Split
from worker.semisup.lengths import LEAST_PROMPT, tokens_read
from worker.semisup.lm import Lab
from worker.semisup.prompts import conversation, thinned
from worker.semisup.seeds import derive_seed
from worker.semisup.spec import JobSpec, LabelAnswer
from worker.semisup.stages.fit import Tokens
from worker.semisup.stages.recipe import FORMS, Recipe, resolve_recipe

JUSTIFY_TOKENS = 96  # room for a reason beside the answer, when the spec says auto


@dataclass(frozen=True)
class Task:
    lab: Lab
    spec: JobSpec
    split: Split
    answers: Answers
    start: Adapter | None = None  # of an earlier job: what warm-up starts from; None: the base LM
    room: int | None = None  # tokens of a response, where this is part of a larger task
    learned: frozenset[str] = frozenset()  # labeled rows that a collaborator's adapter was trained on: they calibrate nothing

    @cached_property
    def labeled(self) -> Mapping[str, Example]:
        return {example.id: example for example in self.split.labeled}

    @cached_property
    def max_new_tokens(self) -> int:
        """Tokens a response may take: as the spec says, or the longest labeled one with some room."""
        if self.room is not None:
            return self.room
        given = self.spec.propagation.max_new_tokens
        longest = max(len(self.lab.encode_response(e.response)) for e in self.split.labeled)
        closed = self.answers.closed and not any(is_reasoned(e.response) for e in self.split.labeled)
        spare = 1 if closed else longest // 2 + 1  # a closed set has no longer answers, reasoning may be longer
        most = self.tokens_read - LEAST_PROMPT if self.tokens_read else longest + spare
        return min(longest + spare, max(longest, most)) if given == "auto" else given

    @property
    def token_drop(self) -> float:
        """Share of a question's words that are left out in training; what "auto" is has been settled (automatic.py)."""
        return float(self.spec.evolve.token_drop)

    @property
    def justify_tokens(self) -> int:
        given = self.spec.resolve.max_new_tokens
        return self.max_new_tokens + JUSTIFY_TOKENS if given == "auto" else given

    @cached_property
    def tokens_read(self) -> int | None:
        """The LM's own limit; None where nothing says it has one."""
        return tokens_read(self.lab)

    @property
    def max_length(self) -> int:
        """Prompt tokens that leave room for a response within the LM's own limit."""
        own = self.tokens_read or self.spec.hyperparameters.max_length
        return max(LEAST_PROMPT, min(own, self.spec.hyperparameters.max_length) - self.max_new_tokens)

    @property
    def justify_length(self) -> int:
        return max(LEAST_PROMPT, self.max_length + self.max_new_tokens - self.justify_tokens)

    def recipe(self, stage: Literal["warmup", "evolve"], examples: int) -> Recipe:
        spec = self.spec
        part = spec.warmup if stage == "warmup" else spec.evolve
        return resolve_recipe(
            spec.hyperparameters,
            stage,
            examples=examples,
            parameters=self.lab.parameters,
            n_epochs=part.n_epochs,
            format=part.format if spec.propagation.in_context else "plain",
            factor=1.0 if stage == "warmup" else spec.evolve.learning_rate_factor,
            alone=spec.resolve.resolver != "pool" and all(c.view == "lm" for c in spec.propagation.active),
        )

    def taught_without(self, rows: Sequence[int]) -> "Task":
        """The task as if these labeled rows (indices) had never been given; room for responses stays what it was."""
        gone = set(rows)
        left = tuple(e for i, e in enumerate(self.split.labeled) if i not in gone)
        return replace(self, split=replace(self.split, labeled=left), room=self.max_new_tokens)

    def dropped_tokens(
        self, examples: Sequence[Example], format: str, neighbours: Neighbours | None, share: float, seed: int
    ) -> Callable[[int], list[Tokens]]:
        """The examples of each epoch with `share` of the words of every question left out, drawn anew in every epoch."""

        def at(epoch: int) -> list[Tokens]:
            return self.tokens(
                [thinned(e, share, derive_seed(seed, "drop", epoch, e.id)) for e in examples], format, neighbours
            )

        return at

    def tokens(self, examples: Sequence[Example], format: str, neighbours: Neighbours | None = None) -> list[Tokens]:
        """Training examples in a format: `plain`, `in_context` (neighbours shown), or `mixed` (each once in both)."""
        return [self._tokens(e, neighbours if shown else None) for shown in FORMS[format] for e in examples]

    def prompt(self, example_or_query: Example, neighbours: Neighbours | None) -> list[int]:
        query = example_or_query.query
        near = neighbours.ids[query.id][: self.spec.propagation.k] if neighbours else ()
        shown = [self.labeled[i] for i in reversed(near)]  # the nearest one last, next to the question
        return self.lab.encode_prompt(conversation(query, shown, self.spec.system_prompt), self.max_length)

    def _tokens(self, example: Example, neighbours: Neighbours | None) -> Tokens:
        """A response that takes more than it was given room for (`max_length`) takes it of its own prompt's front."""
        response, prompt = self.lab.encode_response(example.response), self.prompt(example, neighbours)
        if self.tokens_read:
            prompt = prompt[-max(LEAST_PROMPT, self.tokens_read - len(response)) :]
        return Tokens(tuple(prompt), tuple(response), example.weight)


def make_task(lab: Lab, spec: JobSpec, split: Split) -> Task:
    """Resolve the answer kind from the labeled rows, and bring every given answer into its canonical form.

    Validation and test rows have no say in what a response may be: a label that only they have is no answer of this task,
    and they are kept with it, as rows that nobody can get right.
    """
    answers = resolve_answers(spec.answer, split.labeled)
    labeled = with_answers(split.labeled, answers, file="training_file")
    held_out = _held_out(split.held_out, answers, spec, "test_file")
    validation = _held_out(split.validation, answers, spec, "validation_file")
    return Task(lab, settle(spec, answers), Split(labeled, split.unlabeled, held_out, validation), answers)


def _held_out(rows: Sequence[Example], answers: Answers, spec: JobSpec, file: str) -> tuple[Example, ...]:
    """Canonical answers; where labels were found rather than declared, one that no labeled row has is kept as it is."""
    if answers.kind != "label" or (isinstance(spec.answer, LabelAnswer) and spec.answer.labels):
        return with_answers(rows, answers, file=file)
    return tuple(replace(row, answer=answers.parse(row.response, row.query) or row.response.strip()) for row in rows)
