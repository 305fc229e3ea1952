"""What every part of a job spec is: frozen, closed, nothing coerced."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Auto = Literal["auto"]


class Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


def check_bounds(name: str, value: float | Auto, low: float, high: float) -> None:
    """Raises ValueError for a number outside of them: a union with "auto" has no bounds of its own in JSON schema."""
    if value != "auto" and not low <= value <= high:
        raise ValueError(f"{name} must be between {low} and {high}, or 'auto'; got {value}")
