"""OpenAI's model object: a base language model of this server, or an adapter one of our jobs made."""

from typing import Literal

from pydantic import BaseModel, Field


class ModelObject(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    parent: str | None = Field(None, description="The base language model of an adapter.")
    fine_tuning_job_id: str | None = None
