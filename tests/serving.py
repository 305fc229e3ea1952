"""The service on a free port, in a thread of the test's own process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from api.main import create_app
from api.serve import configured

SECONDS = 120  # for a machine that stands still now and then


@contextmanager
def serving() -> Iterator[str]:
    """http://127.0.0.1:port of a running uvicorn on the configured database; it must also end in time."""
    # A connection that is kept is not closed by a standstill: the next request must not meet a server that hangs up.
    config = configured(create_app(), host="127.0.0.1", port=0, log_level="error", timeout_keep_alive=SECONDS)
    listening = config.bind_socket()
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + SECONDS
    while not running.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running.started
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(SECONDS)
        listening.close()
    assert not thread.is_alive()
