"""Headers every answer has, the 500 nobody should see, and the limits of bodies. Pure ASGI: bodies are never buffered."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import INVALID, SERVER, TooLarge, TooSlow, envelope
from models import logs
from models.settings import settings

log = logging.getLogger("semift.api")

OPENAI_VERSION = "2020-10-01"
FORM_OVERHEAD_BYTES = 128 << 10  # boundaries, headers and the small fields around the file part
FILES, PARTS = re.compile(r"/v1/files/?"), re.compile(r"/v1/uploads/[^/]*/parts/?")


def new_request_id() -> str:
    return f"req_{secrets.token_hex(12)}"


class RequestHeaders:
    """Gives every request an id, times it, and turns what escaped every handler into a 500 in the envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = new_request_id()
        with logs.about(request_id=request_id):
            await self._serve(scope, receive, send, request_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        scope.setdefault("state", {})["request_id"] = request_id
        began, started = time.perf_counter(), False
        unread = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in scope["headers"]
        )

        async def receive_to_the_end() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and bool(message.get("more_body", False))
            return message

        bodiless = scope["method"] == "HEAD"
        if bodiless:
            scope = {**scope, "method": "GET"}  # every GET can be asked for its headers alone

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if bodiless and message["type"] == "http.response.body":
                message = {"type": "http.response.body", "more_body": message.get("more_body", False)}
            if message["type"] == "http.response.start":
                started = True
                _told(scope, message["status"], began)
                if unread:  # refused early: nobody waits for the rest of the body
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
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
            await (refused or self.app)(scope, receive_to_the_end, send_with_headers)
        except Exception:
            log.exception("unhandled error in %s %s (%s)", scope["method"], scope["path"], request_id)
            if started:
                raise
            message = "The server failed; the error was logged under this request id."
            body = envelope(request_id, message, SERVER, "internal_error", hint="Tell the operator the request id.")
            await JSONResponse(body, 500)(scope, receive, send_with_headers)


def _told(scope: Scope, status: int, began: float) -> None:
    """A line for each request. A path is a client's text: ids, or whatever it likes; the query is left out."""
    said = {"method": scope["method"], "path": scope["path"][:200], "status": status}
    log.info("request", extra={**said, "milliseconds": round(1000 * (time.perf_counter() - began))})


def _nul(scope: Scope, request_id: str) -> JSONResponse | None:
    """PostgreSQL has no text with NUL in it, so no id and no filter can hold one."""
    if "\x00" in scope["path"]:
        return JSONResponse(envelope(request_id, "No such route.", "not_found_error", "not_found", hint="Remove %00."), 404)
    if b"%00" in scope["query_string"]:
        body = envelope(request_id, "A query parameter holds a NUL.", INVALID, "invalid_parameter", hint="Remove %00.")
        return JSONResponse(body, 400)
    return None


class BodyDeadline:
    """Refuses a body that arrives slower than `body_bytes` in `body_seconds`; time the server takes itself does not count."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = _hurried(receive, settings().body_seconds, settings().body_bytes)
        await self.app(scope, receive, send)


def _hurried(receive: Receive, seconds: float, enough: int) -> Receive:
    left, seen, complete = seconds, 0, False

    async def hurried() -> Message:
        nonlocal left, seen, complete
        if complete:
            return await receive()  # the handler waits for a disconnect, for as long as it likes
        waited = time.monotonic()
        try:
            async with asyncio.timeout(left):
                message = await receive()
        except TimeoutError:
            raise TooSlow(
                f"The body came too slowly: less than {enough} bytes in {seconds:g} s.",
                code="request_timeout",
                hint="Send it again over a faster connection, or in smaller files.",
                headers={"retry-after": "1"},
            ) from None
        left -= time.monotonic() - waited
        seen += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if seen >= enough:
            left, seen = seconds, 0
        return message

    return hurried


class UploadLimit:
    """Stops an upload at its byte limit, before and while the multipart parser reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            if FILES.fullmatch(scope["path"]):
                receive = _limited(receive, settings().max_file_bytes, file_too_large)
            elif PARTS.fullmatch(scope["path"]):
                receive = _limited(receive, settings().max_part_bytes, part_too_large)
        await self.app(scope, receive, send)


def file_too_large(limit: int, param: str = "file") -> TooLarge:
    return TooLarge(
        f"The file is larger than {limit} bytes ({limit / 2**20:.0f} MiB).",
        code="file_too_large",
        param=param,
        hint="Split the file, or let the operator raise SEMIFT_MAX_FILE_BYTES.",
    )


def part_too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The part is larger than {limit} bytes ({limit / 2**20:.0f} MiB).",
        code="part_too_large",
        param="data",
        hint="Send smaller parts; OpenAI's client takes part_size.",
    )


def _limited(receive: Receive, limit: int, refused: Callable[[int], TooLarge]) -> Receive:
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit + FORM_OVERHEAD_BYTES:
            raise refused(limit)
        return message

    return counted
