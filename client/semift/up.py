"""`semift up`: the server of the checkout this is called from, in this process's place."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from semift.errors import BadInput

MARK = Path("api", "up.py")


def find_checkout(starts: Iterable[Path]) -> Path:
    """The first folder at or above one of `starts` that holds the server. Raises BadInput."""
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / MARK).is_file():
                return folder
    raise BadInput(
        "No Semift checkout here: no folder above holds api/up.py.",
        hint="Change into a checkout, or use --url with a server that runs elsewhere.",
    )


def python_of(checkout: Path) -> str:
    """The checkout's own environment where it has one; this program's may hold the client alone."""
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.is_file() else sys.executable


def command(checkout: Path, data_dir: Path | None, host: str | None, port: int | None) -> list[str]:
    given = {"--data-dir": data_dir and data_dir.resolve(), "--host": host, "--port": port}
    flags = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    return [python_of(checkout), "-m", "api.up", *flags]


def run(data_dir: Path | None, host: str | None, port: int | None) -> NoReturn:
    """Becomes the server, so that signals and its exit code are its own."""
    checkout = find_checkout((Path.cwd(), Path(__file__).resolve().parent))
    _exec(checkout, command(checkout, data_dir, host, port))


def become(module: str, *arguments: str) -> NoReturn:
    """`python -m module …` of the checkout, in this process's place."""
    checkout = find_checkout((Path.cwd(), Path(__file__).resolve().parent))
    _exec(checkout, [python_of(checkout), "-m", module, *arguments])


def _exec(checkout: Path, arguments: list[str]) -> NoReturn:
    os.chdir(checkout)
    os.execv(arguments[0], arguments)
