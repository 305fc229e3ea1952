"""Where an engine is and how patient we are with it. The operator's words, never a job's (docs/engines.md)."""

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator


class Endpoint(BaseModel):
    """An OpenAI-compatible server. The key is shown by no repr, no message and no stored value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    url: str = Field(description="What the openai client calls base_url, e.g. http://10.0.0.7:8000/v1.")
    model: str = Field(min_length=1, description="The model's name on that server.")
    api_key: SecretStr | None = None
    timeout_s: float = Field(120.0, gt=0, le=3600, description="Seconds for one answer, from first to last byte.")
    max_concurrency: int = Field(8, ge=1, le=512, description="Requests under way at once, per worker.")
    retries: int = Field(10, ge=0, le=100, description="How often one request is sent again.")
    patience_s: float = Field(
        300.0, ge=0, le=86400, description="Seconds of failures, with no answer at all, before giving up."
    )
    logprobs: bool = Field(True, description="False: the server gives none, and its votes count for agreement only.")

    @model_validator(mode="after")
    def _plain(self) -> Self:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("url must be http:// or https:// and name a host")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url must hold no user, password, query or fragment; a key goes into api_key")
        key = "none" if self.api_key is None else self.api_key.get_secret_value()
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("api_key must be printable ASCII without line ends")
        return self

    @property
    def completions(self) -> str:
        return f"{self.url.rstrip('/')}/chat/completions"
