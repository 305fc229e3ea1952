"""The server under the app: uvicorn, with limits on the part of a request that no app sees: its head, in time and in bytes.

`python -m api.serve` answers on SEMIFT_HOST and SEMIFT_PORT; `python -m api.up` does, and starts a worker beside it.
"""

import asyncio
import json
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from api.errors import INVALID, envelope
from api.main import create_app
from api.middleware import new_request_id
from models.settings import settings

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 100


class _Refused(Exception):
    """Stops the parser; the answer is already on its way."""


class Patient(HttpToolsProtocol):
    """Answers 408 to a head that does not end in time, 431 to one that does not end at all, 400 to no HTTP; and hangs up."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:  # the parser keeps a header to itself until it ends: what it was fed is counted
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._too_large()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._timer.cancel()
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._timer.cancel()
        if len(self.url) + sum(len(n) + len(v) for n, v in self.headers) > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._too_large()
            raise _Refused
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http", msg, "Send one well-formed HTTP/1.1 request after the other.")

    def _begin_head(self) -> None:
        self._in_head, self._head_bytes = True, 0
        self._timer = self.loop.call_later(settings().head_seconds, self._late)

    def _late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            return  # a request sent ahead: we are the ones who do not read on
        if self._head_bytes:
            message = f"The head of a request must arrive within {settings().head_seconds:g} s."
            self._refuse(408, "request_timeout", message, "Send the request again.")
        self.transport.close()

    def _too_large(self) -> None:
        message = f"The head of a request has at most {MAX_HEAD_BYTES >> 10} KiB and {MAX_HEADERS} headers."
        self._refuse(431, "head_too_large", message, "Send fewer or shorter headers, or a shorter URL.")

    def _refuse(self, status: int, code: str, message: str, hint: str) -> None:
        if self.transport.is_closing():
            return
        request_id = new_request_id()
        body = json.dumps(envelope(request_id, message, INVALID, code, hint=hint)).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": request_id,
            "x-should-retry": "false",
            "connection": "close",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.transport.write(STATUS_LINE[status] + f"{lines}\r\n".encode() + body)
        self.transport.close()


def configured(app: Any, **options: Any) -> uvicorn.Config:
    """uvicorn's configuration for this service."""
    return uvicorn.Config(app, http=Patient, ws="none", **options)


def main() -> int:
    """Serves until it is told to stop. Exit code 1: it could not start."""
    server = uvicorn.Server(configured(create_app(), host=settings().host, port=settings().port, log_level="warning"))
    server.run()
    return 0 if server.started else 1


if __name__ == "__main__":
    sys.exit(main())
