"""`up` and `doctor`."""

import platform
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from semift import show, up
from semift.app import JOB_FAILED, OK, UNREACHABLE, Json, Key, Url, command
from semift.client import DEFAULT_URL, Client
from semift.errors import Unreachable

LOW_DISK_BYTES = 2 << 30


@command
def up_(
    data_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept. Default: SEMIFT_DATA_DIR, else .semift in the checkout.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Default: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8642.")] = None,
) -> None:
    """Start the server of the checkout you are in; ctrl-C or SIGTERM ends it, its worker and what that runs."""
    up.run(data_dir, host, port)


@command
def doctor(url: Url = DEFAULT_URL, api_key: Key = "", as_json: Json = False) -> None:
    """Check this machine and the server. Exit code: 0 fine, 1 the server is not ready, 4 it cannot be reached."""
    free = shutil.disk_usage(Path.cwd()).free
    checks: list[tuple[str, bool, str]] = [
        ("python", sys.version_info >= (3, 11), platform.python_version()),
        ("disk here", free >= LOW_DISK_BYTES, f"{show.size(free)} free"),
    ]
    code = OK
    try:
        with Client(url, api_key) as client:
            checks.append(("server", True, f"{url}, version {client.version().get('version')}"))
            ready = client.readiness()
            checks += [(c["name"], c["ok"], c["problem"] or f"{c['milliseconds']} ms") for c in ready["checks"]]
            names = [model["id"] for model in client.models()]
            checks.append(("models", bool(names), ", ".join(names[:10]) or "none"))
            code = JOB_FAILED if ready["status"] == "not_ready" else OK
    except Unreachable as failure:
        checks.append(("server", False, f"{failure.message} {failure.hint}"))
        code = UNREACHABLE
    if as_json:
        show.emit(show.listing([{"name": name, "ok": ok, "detail": detail} for name, ok, detail in checks]))
    else:
        show.table(
            show.console(), ("check", "", "detail"), ((name, "ok" if ok else "FAILED", detail) for name, ok, detail in checks)
        )
    raise typer.Exit(code)
