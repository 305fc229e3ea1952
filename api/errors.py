"""What the API refuses, the status each refusal has, and the one envelope all of them travel in.

ApiError
├── BadRequest            the body or a parameter cannot be used
├── NotFound              no such thing, or another tenant's: the answer is the same
├── Conflict              the thing exists but is in the wrong state
├── Forbidden             it exists and may not be touched
├── TooLarge              a body over its byte limit
├── UnsupportedMedia      a content type, charset or encoding nobody reads here
├── BadRange              a Range header outside the content
└── Unavailable           the database or the disk cannot serve this now; the client may retry

The envelope is OpenAI's, with our extra keys: {"error": {message, type, param, code, line?, hint?, errors?, request_id}}.
"""

import errno
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from models.queries.paging import UnknownCursor
from worker.semisup import errors as semisup

NO_RETRY = {"x-should-retry": "false"}  # the stock client retries every 409 twice unless told not to


class ApiError(Exception):
    """Root. `param` is the dotted path of the field at fault; `errors` lists every finding when there are several."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        param: str | None = None,
        line: int | None = None,
        hint: str | None = None,
        errors: list[dict[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.code, self.param, self.line, self.hint = message, code, param, line, hint
        self.errors, self.headers = errors, dict(headers or {})


class BadRequest(ApiError): ...


class NotFound(ApiError): ...


class Conflict(ApiError): ...


class Forbidden(ApiError): ...


class TooLarge(ApiError): ...


class UnsupportedMedia(ApiError): ...


class BadRange(ApiError): ...


class Unavailable(ApiError): ...


class Refusal(NamedTuple):
    status: int
    type: str


INVALID, SERVER = "invalid_request_error", "server_error"

# The algorithm's errors carry no status. Those only a runner can raise would be our own fault if they came up here.
STATUS: Mapping[type[Exception], Refusal] = {
    BadRequest: Refusal(400, INVALID),
    NotFound: Refusal(404, "not_found_error"),
    Conflict: Refusal(409, "conflict_error"),
    Forbidden: Refusal(403, "permission_error"),
    TooLarge: Refusal(413, INVALID),
    UnsupportedMedia: Refusal(415, INVALID),
    BadRange: Refusal(416, INVALID),
    Unavailable: Refusal(503, SERVER),
    semisup.SpecError: Refusal(400, INVALID),
    semisup.DataError: Refusal(400, INVALID),
    semisup.DatasetRejected: Refusal(400, INVALID),
    semisup.LmNotFound: Refusal(400, INVALID),
    semisup.NothingSelected: Refusal(500, SERVER),
    semisup.NonFiniteLoss: Refusal(500, SERVER),
    semisup.KeepMismatch: Refusal(500, SERVER),
    semisup.Stopped: Refusal(500, SERVER),
}


def refusal(error: Exception) -> Refusal:
    """The row of the nearest class in the error's own line of descent."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), Refusal(500, SERVER))


def envelope(
    request_id: str | None, message: str, type_: str, code: str, param: str | None = None, **extra: object
) -> dict[str, Any]:
    given = {key: value for key, value in extra.items() if value is not None}
    return {"error": {"message": message, "type": type_, "param": param, "code": code, **given, "request_id": request_id}}


def request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _refuse(request: Request, error: Any) -> JSONResponse:
    status, type_ = refusal(error)
    headers = dict(getattr(error, "headers", {}))
    if status == HTTPStatus.CONFLICT and "retry-after" not in headers:
        headers |= NO_RETRY
    body = envelope(
        request_id(request), error.message, type_, error.code, error.param,
        line=error.line, hint=error.hint, errors=getattr(error, "errors", None),
    )  # fmt: skip
    return JSONResponse(body, status, headers)


async def _bad_parameter(request: Request, error: Any) -> JSONResponse:
    """A query or path parameter FastAPI could not read. Bodies are read by bodies.py and never come here."""
    first = error.errors()[0]
    name = str(first["loc"][-1])
    if first["loc"][0] == "path":
        return await _refuse(request, NotFound(f"No such {name}.", code="not_found", hint="See /docs."))
    message = f"Query parameter '{name}': {first['msg']}."
    return await _refuse(request, BadRequest(message, code="invalid_parameter", param=name, hint=_accepted(request, name)))


def _accepted(request: Request, name: str) -> str:
    """The documented range or choices of a query parameter: what is in the OpenAPI document is what is enforced."""
    paths = request.app.openapi()["paths"]
    operation = paths.get(getattr(request.scope.get("route"), "path", ""), {}).get(request.method.lower(), {})
    schema: dict[str, Any] = next((p["schema"] for p in operation.get("parameters", []) if p["name"] == name), {})
    plain = next((part for part in schema.get("anyOf", [schema]) if part.get("type") != "null"), schema)
    if "enum" in plain:
        return f"Choices: {', '.join(plain['enum'])}."
    least, most = plain.get("minimum"), plain.get("maximum")
    between = f" from {least} to {most}" if most is not None else ""
    return f"Expected {plain.get('type', 'another value')}{between}."


HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large", 415: "unsupported_media_type"}

# What OpenAI serves and this server does not: said plainly, instead of a bare 404.
OPENAI_HAS = re.compile(
    r"/v1/(assistants|audio|batches|chat|completions|containers|conversations|embeddings|evals|images|moderations|organization"
    r"|projects|realtime|responses|threads|uploads|vector_stores|videos|webhook_endpoints"
    r"|fine_tuning/(alpha|checkpoints|jobs/[^/]+/(pause|resume)))(/.*)?"
)


async def _http(request: Request, error: Any) -> JSONResponse:
    """What the framework itself refuses: unknown routes, wrong methods, a broken multipart body."""
    status, hint = error.status_code, "See /docs."
    type_ = SERVER if status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID
    message, code = str(error.detail), HTTP_CODES.get(status, "invalid_request")
    if status == HTTPStatus.NOT_FOUND:
        type_, message = "not_found_error", f"No route {request.method} {request.scope['path'][:200]}."
        if OPENAI_HAS.fullmatch(request.scope["path"]):
            code, hint = "unsupported_endpoint", "This server has /v1/files, /v1/fine_tuning/jobs and /v1/models; see /docs."
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not allowed here; allowed: {(error.headers or {}).get('Allow', 'see /docs')}."
    body = envelope(request_id(request), message, type_, code, hint=hint)
    return JSONResponse(body, status, error.headers)


async def _database_away(request: Request, _error: Any) -> JSONResponse:
    away = Unavailable("The database does not answer.", code="database_unavailable", hint="Retry shortly; see /readyz.")
    away.headers["retry-after"] = "1"
    return await _refuse(request, away)


async def _cursor(request: Request, error: Any) -> JSONResponse:
    message = f"'after' names no item of this list: {error.cursor[:64]!r}."
    return await _refuse(
        request, BadRequest(message, code="invalid_cursor", param="after", hint="Use last_id of the page before.")
    )


async def _torn(request: Request, _error: Any) -> JSONResponse:
    """Usually nobody is left to read this; it keeps a client that hangs up from looking like a bug of ours."""
    torn = BadRequest("The body ended before its declared length.", code="length_mismatch", hint="Send all of Content-Length.")
    return await _refuse(request, torn)


async def _disk(request: Request, error: Any) -> JSONResponse:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    full = Unavailable("The server has no disk space left for this.", code="insufficient_storage", headers=NO_RETRY)
    return await _refuse(request, full)


def add_handlers(app: FastAPI) -> None:
    """Anything not listed here is our bug: middleware.py answers it with 500 in the same envelope and logs it."""
    app.add_exception_handler(ApiError, _refuse)
    app.add_exception_handler(semisup.SemisupError, _refuse)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(OperationalError, _database_away)
    app.add_exception_handler(PoolTimeout, _database_away)
    app.add_exception_handler(UnknownCursor, _cursor)
    app.add_exception_handler(ClientDisconnect, _torn)
    app.add_exception_handler(OSError, _disk)
