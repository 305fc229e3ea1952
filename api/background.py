"""The threads of an API process: one reads large uploads, others ring waiting doorbells and free lost leases.

One set per process, started by the app's lifespan. The calls here only make something happen sooner: what is committed is
found anyway, by these threads or by those of another process.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from api.files.reading import look
from worker.housekeeper import Every, Housekeeper

LOOK_SECONDS = 5.0  # another process may have stored a file, or a file may have expired
STOP_SECONDS = 5.0  # a thread inside a large file is not waited for longer: the file is read at the next start

_reader: Every | None = None
_housekeeper: Housekeeper | None = None


@contextmanager
def running() -> Iterator[None]:
    global _reader, _housekeeper
    _reader, _housekeeper = Every("files", LOOK_SECONDS, look), Housekeeper()
    _reader.start()
    _housekeeper.start()
    try:
        yield
    finally:
        _reader.stop()
        _housekeeper.stop()
        _reader.join(STOP_SECONDS)
        _reader = _housekeeper = None


def read_files() -> None:
    """Call it after an unread upload was committed."""
    if _reader:
        _reader.wake()


def ring_doorbells() -> None:
    """Call it after a job was committed."""
    if _housekeeper:
        _housekeeper.wake()
