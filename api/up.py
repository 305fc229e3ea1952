"""`python -m api.up`: the whole service on one machine, from one command: database, API, and one worker beside it.

Nothing else has to run. The worker is a child process; it ends with this one, even when this one is killed.
"""

import argparse
import ctypes
import ipaddress
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import uvicorn

from api import VERSION
from api.keys.local import LocalKey, local_key, usable_keys
from api.main import create_app
from api.serve import configured
from migrations.upgrade import upgrade
from models.settings import override, settings
from worker.app import WORKER_ARGS

ROOT = Path(__file__).parents[1]
USAGE_ERROR = 2
RESTART_SECONDS = 2.0  # a worker that cannot start must not spin
STOP_MARGIN_SECONDS = 10.0  # for the worker to stop its runner, beyond the runner's own grace
PR_SET_PDEATHSIG = 1


class Worker:
    """One Celery worker process, started again when it dies."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._process = self._spawn()
        self._watcher = threading.Thread(target=self._watch, name="semift-worker-watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Asks, waits, kills."""
        self._stopping.set()
        self._process.terminate()
        try:
            self._process.wait(settings().stop_seconds + STOP_MARGIN_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):  # who says it twice does not want to wait
            self._process.kill()
            self._process.wait()
        self._watcher.join()

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celery", *WORKER_ARGS]
        # A session of its own: ctrl-C in the terminal reaches this process alone, which then stops the worker in order.
        with worker_log().open("ab") as log:
            return subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, preexec_fn=_die_with_parent
            )

    def _watch(self) -> None:
        while not self._stopping.is_set():
            code = self._process.wait()
            if self._stopping.wait(RESTART_SECONDS):
                break
            _say(f"The worker ended with exit code {code}; it is started again. See {worker_log()}\n")
            self._process = self._spawn()
        self._process.terminate()  # spawned while `stop` was waiting for the one before


def worker_log() -> Path:
    return settings().data_dir.resolve() / "worker.log"


def _die_with_parent() -> None:
    """Linux only; elsewhere a worker whose parent was killed stays until it is stopped by hand."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Announcing(uvicorn.Server):
    """Says where it is once it answers, not before."""

    key: LocalKey | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sockets and not self.should_exit:
            host, port = sockets[0].getsockname()[:2]
            _say(announcement(f"http://{f'[{host}]' if ':' in host else host}:{port}", self.key))


def announcement(url: str, key: LocalKey | None) -> str:
    """The key itself is shown when it is new, and only to a person: logs are read by others."""
    take = f'"$(cat {key.path})"' if key else "sk-semift-…"
    shown = f"{key.new}   (new; kept in {key.path})" if key and key.new and sys.stdout.isatty() else key and str(key.path)
    return (
        f"\nSemift {VERSION} is up\n"
        f"  URL   {url}   (documentation: {url}/docs)\n"
        f"  data  {settings().data_dir.resolve()}   (the worker writes worker.log there)\n"
        f"  key   {shown or 'one that an operator made; another: semift keys create --tenant default'}\n\n"
        "Next, in another terminal:\n"
        f"    export SEMIFT_API_KEY={take}\n"
        f"    semift submit --labeled labeled.jsonl --unlabeled unlabeled.jsonl --watch --url {url}\n"
        f'or  curl -H "Authorization: Bearer $SEMIFT_API_KEY" -F purpose=fine-tune -F file=@labeled.jsonl {url}/v1/files\n'
        f"or  export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=$SEMIFT_API_KEY   and any program that uses OpenAI's client\n\n"
        "Ctrl-C stops the server and its worker.\n"
    )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 stopped by a signal, 2 usage, 1 the port is taken or the server could not start."""
    parser = argparse.ArgumentParser(
        prog="python -m api.up", description="Semift on this machine: API, database and one worker."
    )
    parser.add_argument("--data-dir", type=Path, help="for database, uploads, results (default: SEMIFT_DATA_DIR or .semift)")
    parser.add_argument("--host", help="address to listen on (default: SEMIFT_HOST or 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on; 0: any free one (default: SEMIFT_PORT or 8642)")
    given = vars(parser.parse_args(arguments))
    if given["data_dir"]:
        given["data_dir"] = given["data_dir"].resolve()  # the worker runs in another folder
    override(**{name: value for name, value in given.items() if value is not None})
    return serve()


def serve() -> int:
    signal.signal(signal.SIGTERM, _leave)  # uvicorn raises the signal again when it has shut down
    settings().data_dir.mkdir(parents=True, exist_ok=True)
    upgrade()
    here = is_loopback(settings().host)
    if not here and not usable_keys():
        _say(
            f"Refusing to listen on {settings().host}: there is no API key in the database, so nobody could use the server. "
            "Make one first: semift keys create --tenant NAME --scopes read,submit,admin\n"
        )
        return USAGE_ERROR
    config = configured(create_app(), host=settings().host, port=settings().port, log_level="warning")
    server, listening = Announcing(config), config.bind_socket()
    server.key = local_key() if here else None
    worker: Worker | None = None
    try:
        worker = Worker()
        server.run(sockets=[listening])
    except (KeyboardInterrupt, SystemExit):
        return 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending: being told again must not leave the worker behind
        if worker:
            worker.stop()
    return 0 if server.started else 1


def _leave(*_: object) -> None:
    raise SystemExit(0)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
