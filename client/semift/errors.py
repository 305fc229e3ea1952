"""What can go wrong between this program and a server.

SemiftError
├── ApiError           the server refused: its envelope's message, code, param, line and hint
├── Unreachable        nobody answers, or the server cannot serve now
├── ChecksumMismatch   a download is not what the server said it is
└── BadInput           the command cannot be carried out as given
"""

from typing import Any


class SemiftError(Exception):
    """Root. `hint` says what to do next."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def as_json(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "code": type(self).__name__, "hint": self.hint}}


class ApiError(SemiftError):
    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message") or f"The server answered {status}."), hint=error.get("hint"))
        self.status = status
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")
        self.line: int | None = error.get("line")
        self.request_id: str | None = error.get("request_id")
        self.errors: list[dict[str, Any]] = error.get("errors") or []
        self._error = error

    def as_json(self) -> dict[str, Any]:
        return {"error": {**self._error, "status": self.status}}


class Unreachable(SemiftError):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"No server answers at {url}: {reason}", hint="Start one with `semift up`, or name another with --url."
        )


class ChecksumMismatch(SemiftError):
    def __init__(self, path: str, expected: str, found: str) -> None:
        super().__init__(f"{path} has sha256 {found}; the server said {expected}.", hint="Download it again.")


class BadInput(SemiftError):
    pass
