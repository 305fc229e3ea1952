"""What the API refuses, the status each refusal has, and the one envelope all of them travel in.

ApiError
├── BadRequest            the body or a parameter cannot be used
├── Unauthorized          no key, or none that opens anything: which of these is not said
├── LimitReached          too many requests, or a quota of the tenant's is used up
├── NotFound              no such thing, or another tenant's: the answer is the same
├── Conflict              the thing exists but is in the wrong state
├── Forbidden             it exists and may not be touched
├── KeyReused             an Idempotency-Key that stands for another request
├── TooSlow               a body that did not arrive in time
├── TooLarge              a body over its byte limit
├── UnsupportedMedia      a content type, charset or encoding nobody reads here
├── BadRange              a Range header outside the content
├── StorageFull           no room on the disk
└── Unavailable           the database cannot serve this now; the client may retry

The envelope is OpenAI's, with our extra keys: {"error": {message, type, param, code, line, hint, errors?, request_id}}.
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
from starlette.routing import compile_path

from models.queries.paging import UnknownCursor
from worker.semisup import errors as semisup

# OpenAI's clients send 408, 409, 429 and 5xx again unless told not to: what says when (Retry-After) may be, the rest may not.
RETRIED = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS}


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


class Unauthorized(ApiError): ...


class LimitReached(ApiError): ...


class NotFound(ApiError): ...


class Conflict(ApiError): ...


class Forbidden(ApiError): ...


class KeyReused(ApiError): ...


class TooSlow(ApiError): ...


class TooLarge(ApiError): ...


class UnsupportedMedia(ApiError): ...


class BadRange(ApiError): ...


class StorageFull(ApiError): ...


class Unavailable(ApiError): ...


class Refusal(NamedTuple):
    status: int
    type: str


INVALID, SERVER = "invalid_request_error", "server_error"

# The algorithm's errors carry no status. Those only a runner can raise would be our own fault if they came up here.
STATUS: Mapping[type[Exception], Refusal] = {
    BadRequest: Refusal(400, INVALID),
    Unauthorized: Refusal(401, "authentication_error"),
    LimitReached: Refusal(429, "rate_limit_error"),
    NotFound: Refusal(404, "not_found_error"),
    Conflict: Refusal(409, "conflict_error"),
    Forbidden: Refusal(403, "permission_error"),
    TooSlow: Refusal(408, INVALID),
    TooLarge: Refusal(413, INVALID),
    UnsupportedMedia: Refusal(415, INVALID),
    BadRange: Refusal(416, INVALID),
    KeyReused: Refusal(422, INVALID),
    StorageFull: Refusal(507, SERVER),
    Unavailable: Refusal(503, SERVER),
    semisup.SpecError: Refusal(400, INVALID),
    semisup.DataError: Refusal(400, INVALID),
    semisup.DatasetRejected: Refusal(400, INVALID),
    semisup.LmNotFound: Refusal(400, INVALID),
    semisup.EngineNotFound: Refusal(400, INVALID),
    semisup.EngineRefused: Refusal(500, SERVER),
    semisup.EngineAway: Refusal(503, SERVER),
    semisup.NonFiniteLoss: Refusal(500, SERVER),
    semisup.OutOfMemory: Refusal(500, SERVER),
    semisup.KeepMismatch: Refusal(500, SERVER),
    semisup.Stopped: Refusal(500, SERVER),
}


def refusal(error: Exception) -> Refusal:
    """The row of the nearest class in the error's own line of descent."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), Refusal(500, SERVER))


def envelope(
    request_id: str | None,
    message: str,
    type_: str,
    code: str,
    param: str | None = None,
    *,
    line: int | None = None,
    hint: str | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The one body of every refusal. All keys are always there, but `errors`: that is there when there are several."""
    several = {"errors": errors} if errors else {}
    error = {"message": message, "type": type_, "param": param, "code": code, "line": line, "hint": hint, **several}
    return {"error": {**error, "request_id": request_id}}


def request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


async def _refuse(request: Request, error: Any) -> JSONResponse:
    status, type_ = refusal(error)
    headers = dict(getattr(error, "headers", {}))
    if status in RETRIED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        headers.setdefault("x-should-retry", "true" if "retry-after" in headers else "false")
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
    r"|projects|realtime|responses|threads|vector_stores|videos|webhook_endpoints"
    r"|fine_tuning/(alpha|checkpoints))(/.*)?"
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
    headers = dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["allow"] = ", ".join(_methods(request, headers.pop("Allow", "")))
        message, hint = f"{request.method} is not allowed here.", f"Allowed: {headers['allow']}."
    body = envelope(request_id(request), message, type_, code, hint=hint)
    return JSONResponse(body, status, headers)


def _methods(request: Request, of_one_route: str) -> list[str]:
    """All methods of this path: the framework names those of the first route that matches."""
    paths = request.app.openapi()["paths"]
    found = {method for path in paths if compile_path(path)[0].match(request.scope["path"]) for method in paths[path]}
    methods = {method.upper() for method in found} | set(filter(None, of_one_route.split(", ")))
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DISK_FULL = "53100"  # PostgreSQL's SQLSTATE; SQLite says it in words


def storage_full() -> StorageFull:
    return StorageFull(
        "The server has no disk space left for this.",
        code="storage_full",
        hint="Delete files that are no longer needed, or let the operator make room.",
    )


async def _database_away(request: Request, error: Any) -> JSONResponse:
    said = getattr(error, "orig", None)
    if getattr(said, "sqlstate", None) == DISK_FULL or "disk is full" in str(said):
        return await _refuse(request, storage_full())
    away = Unavailable("The database does not answer.", code="database_unavailable", hint="Retry shortly; see /readyz.")
    away.headers["retry-after"] = "1"
    return await _refuse(request, away)


async def _cursor(request: Request, error: Any) -> JSONResponse:
    asked = request.query_params.get("after", error.cursor)  # as it was sent: the cursor may be a part of it
    message = f"'after' names no item of this list: {asked[:64]!r}."
    return await _refuse(
        request, BadRequest(message, code="invalid_cursor", param="after", hint="Use last_id of the page before.")
    )


async def _torn(request: Request, _error: Any) -> JSONResponse:
    """Usually nobody is left to read this; it keeps a client that hangs up from looking like a bug of ours."""
    torn = BadRequest("The body ended before its declared length.", code="length_mismatch", hint="Send all of Content-Length.")
    return await _refuse(request, torn)


async def _disk(request: Request, error: Any) -> JSONResponse:
    if error.errno not in FULL:
        raise error
    return await _refuse(request, storage_full())


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
