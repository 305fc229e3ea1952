"""What counts as an answer."""

from typing import Annotated, Literal

from pydantic import Field

from worker.semisup.spec.base import Spec


class AutoAnswer(Spec):
    """Options in the rows mean `choice`; few distinct short responses, `label`; bare numbers, `number`; else `text`."""

    kind: Literal["auto"] = "auto"


class ChoiceAnswer(Spec):
    """The answer is one of the row's options, given as its letter."""

    kind: Literal["choice"] = "choice"


class LabelAnswer(Spec):
    """The answer is one of a closed set of labels."""

    kind: Literal["label"] = "label"
    labels: tuple[str, ...] | None = Field(
        None, strict=False, description="Allowed labels; default: those of the labeled file."
    )


class NumberAnswer(Spec):
    """The answer is one number: after `####` or "Answer:", or the only one in the response."""

    kind: Literal["number"] = "number"
    tolerance: float = Field(0.0, ge=0, description="Two numbers agree when they differ by at most this (absolute).")
    relative_tolerance: float = Field(
        0.0, ge=0, lt=1, description="Or by at most this share of the larger magnitude; both given: either is enough."
    )


class TextAnswer(Spec):
    """Free text: what follows "Answer:", else the whole response. See docs/answers.md."""

    kind: Literal["text"] = "text"
    agree_by: Literal["match", "meaning"] = Field(
        "meaning",
        description="`match`: equal after Unicode, case and space normalisation. `meaning`: or near by sentence embedding, "
        "with the same numbers and negation.",
    )
    min_similarity: float = Field(
        0.85,  # a false agreement is trained on, a missed one costs a call of the resolver: measured in docs/answers.md
        ge=0,
        le=1,
        description="By meaning: the least mean cosine among answers that agree.",
    )


AnswerSpec = Annotated[AutoAnswer | ChoiceAnswer | LabelAnswer | NumberAnswer | TextAnswer, Field(discriminator="kind")]
