"""A synchronous client: OpenAI's routes as far as this program needs them, and Semift's own beneath them.

Reads are retried while the connection fails; nothing that creates is ever sent twice.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote, urlsplit

import httpx

from semift import wire
from semift.errors import ApiError, BadInput, ChecksumMismatch, SemiftError, Unreachable
from semift.local import local_key

DEFAULT_URL = "http://127.0.0.1:8642"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
READ_ATTEMPTS = 3
RETRY_SECONDS = 0.3
POLL_SECONDS = 0.5
KEPT_SECONDS = 2.0  # an idle connection: less than a server keeps it (5 s), or a POST meets one that is just being closed
CHUNK_BYTES = 1 << 20


class Client:
    """Use it as a context manager, or call `close`. Without a key, that of a server on this machine is looked for.

    Raises SemiftError's subclasses, never httpx's.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        api_key: str = "",
        *,
        timeout_seconds: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        here = _host(self.url) in LOOPBACK
        api_key = api_key or (local_key() if here else "")  # which goes to nobody but this machine
        # A proxy from the environment must not come between this program and a server on the same machine.
        self._http = httpx.Client(
            base_url=self.url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=5.0),
            limits=httpx.Limits(keepalive_expiry=KEPT_SECONDS),
            trust_env=not here,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- files ---

    def upload(self, path: Path, purpose: str = "fine-tune", dataset: Mapping[str, Any] | None = None) -> wire.File:
        """Streams the file. `dataset` is what the uploader knows of it: format, mapping, labels, role."""
        fields = {"purpose": purpose, **({"dataset": json.dumps(dict(dataset))} if dataset else {})}
        with path.open("rb") as file:
            return cast(wire.File, self._send("POST", "/v1/files", data=fields, files={"file": (path.name, file)}))

    def wait_read(self, file: wire.File) -> wire.File:
        """The file once the server has read it; large files are read after the upload answered."""
        while file["status"] == "uploaded":
            time.sleep(POLL_SECONDS)
            file = self.file(file["id"])
        return file

    def file(self, file_id: str) -> wire.File:
        return cast(wire.File, self._get(f"/v1/files/{_part(file_id)}"))

    def validation(self, file_id: str) -> wire.Validation:
        return cast(wire.Validation, self._get(f"/v1/files/{_part(file_id)}/validation"))

    def delete_file(self, file_id: str) -> None:
        self._send("DELETE", f"/v1/files/{_part(file_id)}")

    # --- jobs ---

    def create_job(self, body: Mapping[str, Any]) -> wire.Job:
        return cast(wire.Job, self._send("POST", "/v1/fine_tuning/jobs", json=dict(body)))

    def job(self, job_id: str) -> wire.Job:
        return cast(wire.Job, self._get(_job(job_id)))

    def jobs(self, limit: int) -> list[wire.Job]:
        """The newest first."""
        return cast(list[wire.Job], list(self._pages("/v1/fine_tuning/jobs", limit)))

    def cancel(self, job_id: str) -> wire.Job:
        return cast(wire.Job, self._send("POST", f"{_job(job_id)}/cancel"))

    def pause(self, job_id: str) -> wire.Job:
        return cast(wire.Job, self._send("POST", f"{_job(job_id)}/pause"))

    def resume(self, job_id: str) -> wire.Job:
        return cast(wire.Job, self._send("POST", f"{_job(job_id)}/resume"))

    def stages(self, job_id: str) -> list[wire.Stage]:
        return cast(list[wire.Stage], self._get(f"{_job(job_id)}/stages")["data"])

    def rounds(self, job_id: str) -> list[dict[str, Any]]:
        return list(self._get(f"{_job(job_id)}/rounds")["data"])

    def events(self, job_id: str, limit: int = 100) -> list[dict[str, Any]]:
        """The newest first."""
        return list(self._pages(f"{_job(job_id)}/events", limit))

    def samples(self, job_id: str, limit: int, **filters: str | float | None) -> list[wire.Sample]:
        """`filters`: round, verdict, min_mean_nll, max_mean_nll, order."""
        return cast(list[wire.Sample], list(self._pages(f"{_job(job_id)}/samples", limit, **filters)))

    def artifacts(self, job_id: str) -> list[wire.Artifact]:
        return cast(list[wire.Artifact], self._get(f"{_job(job_id)}/artifacts")["data"])

    def download(self, job_id: str, artifact: wire.Artifact, folder: Path) -> Path:
        """The artefact below `folder`, under its own path; what is there already with the right hash is left alone.

        Raises ChecksumMismatch, after which nothing of it is left behind.
        """
        path = PurePosixPath(artifact["path"])
        if path.is_absolute() or ".." in path.parts:
            raise SemiftError(f"The server names an artefact {artifact['path']!r}, which lies outside the folder.")
        target = folder / path
        if target.is_file() and _sha256(target) == artifact["sha256"]:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        try:
            found = self._stream(f"{_job(job_id)}/artifacts/{quote(artifact['path'])}", part)
            if found != artifact["sha256"]:
                raise ChecksumMismatch(artifact["path"], artifact["sha256"], found)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    # --- the server ---

    def models(self) -> list[wire.Model]:
        return cast(list[wire.Model], self._get("/v1/models")["data"])

    def version(self) -> dict[str, Any]:
        return dict(self._get("/version"))

    def readiness(self) -> wire.Readiness:
        """Of a server that is not ready too: its 503 says why."""
        response = self._request("GET", "/readyz")
        return cast(wire.Readiness, response.json() if response.status_code == 503 else _body(response, self.url))

    # --- beneath ---

    def _pages(self, path: str, limit: int, **params: str | float | None) -> Iterator[dict[str, Any]]:
        after: str | None = None
        while limit > 0:
            asked = {**params, "after": after, "limit": min(limit, 100)}
            page = self._get(path, params={key: value for key, value in asked.items() if value is not None})
            yield from page["data"]
            limit -= len(page["data"])
            if not page["has_more"] or not page["data"]:
                return
            after = page["data"][-1]["id"]

    def _get(self, path: str, **request: Any) -> Any:
        for attempt in range(READ_ATTEMPTS):
            try:
                return self._send("GET", path, **request)
            except Unreachable:
                if attempt + 1 == READ_ATTEMPTS:
                    raise
                time.sleep(RETRY_SECONDS * 2**attempt)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _send(self, method: str, path: str, **request: Any) -> Any:
        return _body(self._request(method, path, **request), self.url)

    def _request(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error

    def _stream(self, path: str, to: Path) -> str:
        digest = hashlib.sha256()
        try:
            with self._http.stream("GET", path) as response, to.open("wb") as file:
                if response.is_error:
                    response.read()
                    _body(response, self.url)
                for chunk in response.iter_bytes(CHUNK_BYTES):
                    digest.update(chunk)
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise Unreachable(self.url, str(error) or type(error).__name__) from error
        return digest.hexdigest()


def _host(url: str) -> str:
    try:
        parsed = urlsplit(url)
        usable = parsed.scheme in ("http", "https") and parsed.hostname and parsed.port != 0
    except ValueError:  # a broken IPv6 address, or a port that is no number
        usable = False
    if not usable:
        raise BadInput(f"{url} is no URL of a server.", hint=f"Use something like {DEFAULT_URL}.")
    return str(parsed.hostname)


def _job(job_id: str) -> str:
    return f"/v1/fine_tuning/jobs/{_part(job_id)}"


def _part(value: str) -> str:
    return quote(value, safe="")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _body(response: httpx.Response, url: str) -> Any:
    """The answer's JSON. Raises ApiError with the server's envelope, or Unreachable for an answer that is not this API's."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_error:
        error = body.get("error") if isinstance(body, dict) else None
        raise ApiError(
            response.status_code, error if isinstance(error, dict) else {"message": f"{url} answered {response.status_code}."}
        )
    if not isinstance(body, dict):
        raise Unreachable(url, "what answers there is not a Semift server")
    return body
