"""What every stage of a job shares: the lab, the spec, the resolved answer kind, and how a row becomes tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from worker.semisup.answers import Answers, resolve_answers, with_answers
from worker.semisup.data import Example, Neighbours, Split
from worker.semisup.lm import Lab
from worker.semisup.prompts import conversation
from worker.semisup.spec import JobSpec
from worker.semisup.stages.fit import Tokens
from worker.semisup.stages.recipe import Recipe, resolve_recipe

JUSTIFY_TOKENS = 96  # room for a reason beside the answer, when the spec says auto


@dataclass(frozen=True)
class Task:
    lab: Lab
    spec: JobSpec
    split: Split
    answers: Answers

    @cached_property
    def labeled(self) -> Mapping[str, Example]:
        return {example.id: example for example in self.split.labeled}

    @cached_property
    def max_new_tokens(self) -> int:
        """Tokens a response may take: as the spec says, or the longest labeled one with some room."""
        given = self.spec.propagation.max_new_tokens
        longest = max(len(self.lab.encode_response(e.response)) for e in self.split.labeled)
        spare = 1 if self.answers.kind in ("choice", "label") else longest // 2 + 1  # a closed set has no longer answers
        return longest + spare if given == "auto" else given

    @property
    def justify_tokens(self) -> int:
        given = self.spec.resolve.max_new_tokens
        return self.max_new_tokens + JUSTIFY_TOKENS if given == "auto" else given

    @property
    def max_length(self) -> int:
        """Prompt tokens that leave room for a response within the LM's own limit."""
        limit = getattr(self.lab.tokenizer, "model_max_length", 0)
        own = limit if 0 < limit < 10**6 else self.spec.hyperparameters.max_length
        return max(16, min(own, self.spec.hyperparameters.max_length) - self.max_new_tokens)

    @property
    def justify_length(self) -> int:
        return max(16, self.max_length + self.max_new_tokens - self.justify_tokens)

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
        )

    def tokens(self, examples: Sequence[Example], format: str, neighbours: Neighbours | None = None) -> list[Tokens]:
        """Training examples in a format: `plain`, `in_context` (neighbours shown), or `mixed` (each once in both)."""
        forms = {"plain": (False,), "in_context": (True,), "mixed": (False, True)}[format]
        return [self._tokens(e, neighbours if shown else None) for shown in forms for e in examples]

    def prompt(self, example_or_query: Example, neighbours: Neighbours | None) -> list[int]:
        query = example_or_query.query
        near = neighbours.ids[query.id][: self.spec.propagation.k] if neighbours else ()
        shown = [self.labeled[i] for i in reversed(near)]  # the nearest one last, next to the question
        return self.lab.encode_prompt(conversation(query, shown, self.spec.system_prompt), self.max_length)

    def _tokens(self, example: Example, neighbours: Neighbours | None) -> Tokens:
        response = self.lab.encode_response(example.response)
        return Tokens(tuple(self.prompt(example, neighbours)), tuple(response), example.weight)


def make_task(lab: Lab, spec: JobSpec, split: Split) -> Task:
    """Resolve the answer kind and bring every labeled answer into its canonical form."""
    answers = resolve_answers(spec.answer, (*split.labeled, *split.held_out))
    labeled = with_answers(split.labeled, answers, file="training_file")
    held_out = with_answers(split.held_out, answers, file="test_file")
    return Task(lab, spec, Split(labeled, split.unlabeled, held_out), answers)
