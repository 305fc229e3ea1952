"""What our processes log: one JSON object a line on stderr, with whose request or job it is, and nothing of anybody's rows.

An error is told by its type and where it was raised. What an exception *says* may quote a row, a query's parameters or an
address with a password, so it is left out unless the operator asks for it (SEMIFT_LOG_ERROR_TEXT). Keys and passwords in
addresses are taken out of every line, whoever wrote it.
"""

import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO

WHO = ("request_id", "tenant", "job_id")
EXTRA = ("method", "path", "status", "milliseconds", "file_id")  # what a call may give as `extra`
FRAMES = 12
MAX_CHARS = 2000  # of one event
LOUD = ("httpx", "httpcore", "urllib3", "alembic", "kombu", "amqp", "filelock", "fsspec")  # heard from warnings up
# These bring handlers of their own, in their own format.
OWN_HANDLERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task", "celery.redirected")
SECRETS = (
    (re.compile(r"\bsk-[\w-]{8,}", re.ASCII), "sk-***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[^\s\"',]+"), r"\1 ***"),
    (re.compile(r"(?<=://)[^/\s:@]*:[^@\s/]+(?=@)"), "***"),
    (re.compile(r"(?i)\b(password|passwd|secret|api[_-]?key|token)=[^&\s\"']+"), r"\1=***"),
)
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

_about: ContextVar[dict[str, str] | None] = ContextVar("about", default=None)


@contextmanager
def about(**who: str) -> Iterator[None]:
    """Every line logged in this block, and in threads that got a copy of its context, says `who` (names of WHO)."""
    token = _about.set({**(_about.get() or {}), **who})
    try:
        yield
    finally:
        _about.reset(token)


def note(**who: str) -> None:
    """More about the block we are in, from wherever in it that became known."""
    here = _about.get()
    if here is not None:
        here.update(who)


def start(process: str, *, error_text: bool = False) -> None:
    """Call it once a process has begun: `process` is api, worker or runner. A second call changes nothing.

    `error_text`: write what exceptions say, too.
    """
    if _about.get() is None:
        _about.set({})
    root = logging.getLogger()
    if any(isinstance(handler.formatter, Lines) for handler in root.handlers):
        return
    handler = _Stderr()
    handler.setFormatter(Lines(process, error_text=error_text))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in OWN_HANDLERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)  # api/middleware.py has a line for each request
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the time, as logging's own last resort does."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class Lines(logging.Formatter):
    """A record as one line of JSON: ASCII, so that no name in it can end the line or colour a terminal."""

    def __init__(self, process: str, *, error_text: bool = False) -> None:
        super().__init__()
        self._process, self._error_text = process, error_text

    def format(self, record: logging.LogRecord) -> str:
        who = _about.get() or {}
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": record.getMessage()[:MAX_CHARS],
        }
        line |= {key: who[key] for key in WHO if key in who}
        line |= {key: getattr(record, key) for key in (*WHO, *EXTRA) if hasattr(record, key)}
        if record.exc_info and record.exc_info[0]:
            line |= _error(record.exc_info, self._error_text)
        return redacted(json.dumps(line, default=repr))


def redacted(text: str) -> str:
    for pattern, instead in SECRETS:
        text = pattern.sub(instead, text)
    return text


def _error(info: ExcInfo, error_text: bool) -> dict[str, Any]:
    kind, error, trace = info
    frames = traceback.extract_tb(trace)[-FRAMES:]
    found: dict[str, Any] = {
        "error": kind.__name__ if kind else "",
        "where": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
    }
    cause = error.__cause__ if error else None
    if cause is not None:
        found["cause"] = type(cause).__name__
    if error_text:
        found["says"] = str(error)[:MAX_CHARS]
    return found
