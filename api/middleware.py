"""Headers every answer has, the 500 nobody should see, and the byte limit of uploads. Pure ASGI: bodies are never buffered."""

import logging
import re
import secrets
import time

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import INVALID, SERVER, TooLarge, envelope
from models.settings import settings

log = logging.getLogger("semift.api")

OPENAI_VERSION = "2020-10-01"
FORM_OVERHEAD_BYTES = 128 << 10  # boundaries, headers and the small fields around the file part
UPLOADS = re.compile(r"/v1/files/?")


class RequestHeaders:
    """Gives every request an id, times it, and turns what escaped every handler into a 500 in the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        began, started = time.perf_counter(), False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                milliseconds = round(1000 * (time.perf_counter() - began))
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"openai-processing-ms", str(milliseconds).encode()),
                    (b"openai-version", OPENAI_VERSION.encode()),
                    (b"openai-organization", b"org-default"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        refused = _nul(scope, request_id)
        try:
            await (refused or self.app)(scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled error in %s %s (%s)", scope["method"], scope["path"], request_id)
            if started:
                raise
            body = envelope(
                request_id, "The server failed; the error was logged under this request id.", SERVER, "internal_error"
            )
            await JSONResponse(body, 500)(scope, receive, send_with_headers)


def _nul(scope: Scope, request_id: str) -> JSONResponse | None:
    """PostgreSQL has no text with NUL in it, so no id and no filter can hold one."""
    if "\x00" in scope["path"]:
        return JSONResponse(envelope(request_id, "No such route.", "not_found_error", "not_found", hint="Remove %00."), 404)
    if b"%00" in scope["query_string"]:
        body = envelope(request_id, "A query parameter holds a NUL.", INVALID, "invalid_parameter", hint="Remove %00.")
        return JSONResponse(body, 400)
    return None


class UploadLimit:
    """Stops an upload at its byte limit, before and while the multipart parser reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and UPLOADS.fullmatch(scope["path"]):
            receive = _limited(receive, settings().max_file_bytes)
        await self.app(scope, receive, send)


def file_too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The file is larger than {limit} bytes ({limit / 2**20:.0f} MiB).",
        code="file_too_large",
        param="file",
        hint="Split the file, or let the operator raise SEMIFT_MAX_FILE_BYTES.",
    )


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit + FORM_OVERHEAD_BYTES:
            raise file_too_large(limit)
        return message

    return counted
