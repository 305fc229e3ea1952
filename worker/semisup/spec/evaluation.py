"""Who decides, who is reported, and against which controls."""

from typing import Literal

from pydantic import Field, model_validator

from worker.semisup.spec.base import Spec


class Evaluation(Spec):
    held_out_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of the labeled file held out when no test file is given."
    )
    dev_fraction: float = Field(0.25, gt=0, lt=1, description="Share of the labels the early-stopped arm picks its epoch on.")
    validation_fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Share of the held-out rows that decides and is not reported; with two files the validation file decides.",
    )
    keep: Literal["best", "evolved", "labels_only"] = Field(
        "best", description="The job's result; `best`: what is better on the validation rows, evolved where they are equal."
    )
    baselines: bool = Field(True, description="Train and show labels-only twice, kNN vote and vanilla beside evolved.")
    with_neighbours: bool = Field(True, description="Also show every LM arm with the neighbours in the prompt.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals in the report.")
    on_leakage: Literal["error", "drop", "allow"] = Field(
        "error",
        description="Labeled rows that are in the test file too: refuse the job, drop them from the test rows, or only say so.",
    )

    @model_validator(mode="after")
    def _kept_arm_exists(self) -> "Evaluation":
        if self.keep == "labels_only" and not self.baselines:
            raise ValueError("keep: labels_only needs the labels-only arm: set baselines to true, or keep to evolved")
        return self
