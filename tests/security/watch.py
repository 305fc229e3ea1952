"""Watches a test run from inside the interpreter (sys.addaudithook): what no test may cause, caught where it happens.

Unpickling, shells and connections beyond this machine are stopped on the spot; files written outside of temporary and known
folders are noted. Either fails the test that did it. A hook cannot be taken out again, so it is told when not to look.
"""

import ipaddress
import os
import site
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STOPPED = ("pickle.find_class", "os.system", "marshal.load", "shelve.open")
# Modules that unpickle what they pickled themselves a moment ago, in this process tree.
UNPICKLERS = ("multiprocessing", "copy", "hypothesis", "concurrent")
CACHES = ("__pycache__", ".pytest_cache", ".hypothesis", ".mypy_cache", ".ruff_cache", ".semift", ".git", "semift.egg-info")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Forbidden(BaseException):
    """Not an Exception: nothing under test may swallow it."""


class Watch:
    """`seen` fills up with what was caught: `event: what`."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._looking = False
        self._writable = _writable()

    def start(self) -> None:
        self._looking = True
        sys.addaudithook(self._hook)

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """For a test of something that is caught."""
        self._looking = False
        try:
            yield
        finally:
            self._looking = True

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._looking:
            return
        if event == "open":
            if (path := written(arguments)) and not self.may_write(path):
                self.seen.append(f"open: {path}")
        elif event == "socket.connect":
            if not is_near(arguments[1]):
                self._stop(f"{event}: {arguments[1]!r}")
        elif event in STOPPED and not (event == "pickle.find_class" and _own_pickle()):
            self._stop(f"{event}: {arguments!r:.200}")

    def _stop(self, what: str) -> None:
        self.seen.append(what)
        raise Forbidden(what)

    def may_write(self, path: str) -> bool:
        full = os.path.realpath(path) + "/"  # the folder itself is what a file without a name is opened in
        return full.startswith(self._writable) or (full.startswith(f"{ROOT}/") and any(name in full for name in CACHES))


def written(arguments: tuple[Any, ...]) -> str | None:
    """The path that an `open` event writes, None where it only reads or opens a descriptor."""
    path, mode, flags = arguments
    if not isinstance(path, str | bytes):
        return None
    writes = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & WRITING)
    return os.fsdecode(path) if writes else None


def is_near(address: Any) -> bool:
    """A Unix socket, or this machine by number or name."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0]).partition("%")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def _own_pickle() -> bool:
    frame = sys._getframe(2)
    while frame:
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in UNPICKLERS:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _writable() -> tuple[str, ...]:
    folders = {tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev", "/proc", "/run/postgresql", str(Path.home() / ".cache")}
    packages = {*site.getsitepackages(), sysconfig.get_paths()["stdlib"]}  # byte code of what is imported for the first time
    return tuple(f"{os.path.realpath(folder)}/" for folder in folders | packages)


WATCH = Watch()
