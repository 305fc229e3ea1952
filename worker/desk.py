"""The worker's side of the pipe: what a runner asks for, done in the database and the blob store under the job's lease."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from models.blobs import BlobError, blobs
from models.crash import crash_point
from models.db import transaction
from models.queries import lineage, stages
from models.queries.events import Level, add_event, warned_of
from models.queries.leases import Lease, hold
from models.settings import settings
from worker.saves import Saves, discard_dropped

Message = Mapping[str, Any]
Answer = dict[str, Any]


class ProtocolError(Exception):
    """The runner said something it must not."""


class Desk:
    """Serves one runner. Raises LeaseLost when its job is no longer ours; after any error the runner is of no more use.

    `chunks_done` counts what this runner committed. `ending` is {"finished": True}, {"stopped": True} (as it was told to) or
    {"error": {…}} once it has said so; "again" is in it when another attempt may succeed.
    """

    def __init__(self, lease: Lease, scratch: Path) -> None:
        self.lease, self.scratch, self.rounds = lease, scratch.resolve(), 1
        self.fork: Mapping[str, Any] | None = None  # the job whose stages are taken over, and which (models/tables.py)
        self.ending: dict[str, Any] | None = None
        self.chunks_done = 0
        self._progress: dict[str, Any] | None = None
        self._metrics: dict[str, Any] | None = None
        self._chunked: set[str] = set()
        self._own: dict[str, Path] = {}  # what this runner committed lies in its scratch folder already
        self._doing, self._heard = "loading", time.monotonic()
        self._turn_since: float | None = None
        saves = Saves(lease, self.scratch, self._store)
        self._asks: Mapping[str, Callable[[Message], Answer]] = {
            "lookup": self._lookup,
            "commit": self._commit,
            "open": self._open,
            "claim": self._claim,
            "commit_chunk": self._commit_chunk,
            "lookup_chunks": self._lookup_chunks,
            "seconds": self._seconds,
            "halved": self._halved,
            "save": saves.save,
            "saved": saves.saved,
            "load": saves.load,
            "drop": saves.drop,
        }

    def answer(self, message: Message) -> Answer | None:
        """What to send back; None when nothing is. While the runner waits for it, its silence does not count."""
        with self.turn():
            return self._answer(message)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The worker is at something its runner waits for."""
        self._turn_since = time.monotonic()
        try:
            yield
        finally:
            self._heard, self._turn_since = time.monotonic(), None

    def turn_seconds(self) -> float:
        """For how long the worker has been at the same turn; 0 when it is the runner's."""
        since = self._turn_since
        return 0.0 if since is None else time.monotonic() - since

    def silence(self) -> tuple[float, str]:
        """(seconds since the runner was heard or answered, what it was doing: loading, step or batch)."""
        return 0.0 if self._turn_since is not None else time.monotonic() - self._heard, self._doing

    def _answer(self, message: Message) -> Answer | None:
        if "ask" in message:
            if message["ask"] not in self._asks:
                raise ProtocolError(f"unknown question {message['ask']!r}")
            if self.lease.helper and message["ask"] in ("save", "drop"):
                raise ProtocolError("a helper has no checkpoints")
            self._doing = "loading"
            return self._asks[message["ask"]](message)
        match message.get("tell"):
            case "alive":
                self._doing = message["doing"] if message["doing"] in ("step", "batch") else "loading"
            case "progress":
                self._doing = "batch" if message["stage"] in self._chunked else "step"
                if message["stage"] in self._chunked:
                    return None  # a sign of life from inside a chunk: finished chunks are the progress
                self._show(message["stage"], message["step"], message["total"], message.get("metrics"))
            case "event":
                self._event(message)
            case "finished":
                self.ending = {"finished": True}
            case "stopped":
                self.ending = {"stopped": True}
            case "failed":
                self.ending = {"error": dict(message["error"])} | ({"again": True} if message.get("again") else {})
            case other:
                raise ProtocolError(f"unknown message {other!r}")
        return None

    def take_progress(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """(progress, metrics) since the last call, for the heartbeat to write."""
        taken = self._progress, self._metrics
        self._progress = self._metrics = None
        return taken

    # --- stages ----------------------------------------------------------------------------------------------------

    def _lookup(self, message: Message) -> Answer:
        name = message["stage"]
        with transaction(read_only=True) as session:
            manifest = stages.lookup(session, self.lease.job_id, name)
            taken = self.fork is not None and lineage.taken(session, self.lease.job_id, name) is not None
        if manifest is not None:
            try:
                return {"manifest": manifest, "path": str(self._folder(name, manifest)), "taken": taken}
            except BlobError as problem:
                self._forget(name, problem, partial(stages.forget_stage, lease=self.lease, name=name))
        elif answer := self._take(name):
            return answer
        if not self.lease.helper:
            self._show(name, 0, 0)
            with transaction() as session:
                stages.begin_stage(session, self.lease, name)
        return {"manifest": None}

    def _commit(self, message: Message) -> Answer:
        if self.lease.helper:
            raise ProtocolError("a helper ends no stage")
        name, seconds = message["stage"], message["seconds"]
        folder, manifest = self._store(message)
        payload = json.loads((folder / "payload.json").read_bytes())
        if manifest["type"] == "Adapter":
            manifest["summary"] = {key: payload[key] for key in ("steps", "trained_tokens", "final_loss")}
        crash_point("stage.stored")
        with transaction() as session:
            stages.commit_stage(session, self.lease, name, manifest, payload, seconds)
            add_event(session, self.lease.job_id, f"{name} finished in {seconds:.1f} s", data={"stage": name})
        crash_point("stage.committed")
        discard_dropped(self.lease.job_id)
        self._own[name] = folder
        return {"ok": True}

    # --- what an earlier job has ------------------------------------------------------------------------------------

    def _takes(self, name: str) -> bool:
        return self.fork is not None and not self.lease.helper and name in self.fork["taken_over"]

    def _take(self, name: str) -> Answer | None:
        """The stage's output as the forked job made it, recorded as this job's own. None: there is none, or not readable."""
        if not self.fork or not self._takes(name):
            return None
        source = self.fork["job"]
        with transaction(read_only=True) as session:
            found = lineage.earlier_stage(session, source, name)
        if found is None:
            return None
        manifest, seconds = found
        try:
            folder = self._folder(name, manifest)
        except BlobError as problem:
            self._forget(name, problem, lambda _session: None)
            return None
        payload = json.loads((folder / "payload.json").read_bytes())
        with transaction() as session:
            lineage.take_stage(session, self.lease, name, source, manifest, payload, seconds)
            message = f"{name} taken over from {source}"
            add_event(session, self.lease.job_id, message, data={"stage": name, "job": source})
        return {"manifest": manifest, "path": str(folder), "taken": True}

    # --- chunks ----------------------------------------------------------------------------------------------------

    def _open(self, message: Message) -> Answer:
        if self.lease.helper:
            raise ProtocolError("a helper opens no stage")
        self._chunked.add(message["stage"])
        name, cut = message["stage"], (message["chunks"], message["items"])
        if not self._takes(name):
            with transaction() as session:
                stages.open_stage(session, self.lease, name, *cut)
            crash_point("stage.opened")
            return {"ok": True}
        source = str(self.fork["job"]) if self.fork else ""
        with transaction() as session:
            new = lineage.take_chunks(session, self.lease, name, source, *cut)
            taken = lineage.taken(session, self.lease.job_id, name)
            if new:
                text = f"{taken} of {cut[0]} chunks of {name} taken over from {source}"
                add_event(session, self.lease.job_id, text, data={"stage": name, "job": source})
        return {"ok": True} | ({} if taken is None else {"taken": taken})

    def _claim(self, message: Message) -> Answer:
        with transaction() as session:
            claimed = stages.claim_chunk(session, self.lease, message["stage"])
        crash_point("chunk.claimed")
        if claimed.chunk is not None:
            return {"chunk": claimed.chunk}
        return {"wait": settings().heartbeat_seconds / 2} if claimed.wait else {"done": claimed.done}

    def _commit_chunk(self, message: Message) -> Answer:
        name, number, seconds = message["stage"], message["chunk"], message["seconds"]
        folder, manifest = self._store(message)
        crash_point("chunk.stored")
        try:
            with transaction() as session:
                done, total = stages.commit_chunk(session, self.lease, name, number, manifest, seconds)
                if done == total:
                    add_event(session, self.lease.job_id, f"{name} finished, {total} chunks", data={"stage": name})
        except stages.ChunkLost:
            return self._too_late(name, number)
        crash_point("chunk.committed")
        self.chunks_done += 1
        self._own[_chunk_name(name, number)] = folder
        self._show(name, done, total)
        return {"ok": True}

    def _too_late(self, name: str, number: int) -> Answer:
        """A chunk somebody else took when its lease was over (this machine stood still): the run itself goes on."""
        with transaction() as session:
            hold(session, self.lease)
            text = f"chunk {number} of {name} came too late from {self.lease.worker}: another worker has taken it"
            data = {"stage": name, "chunk": number, "code": "chunk_lost"}
            add_event(session, self.lease.job_id, text, level="warn", data=data)
        return {"ok": False}

    def _lookup_chunks(self, message: Message) -> Answer:
        name = message["stage"]
        with transaction(read_only=True) as session:
            finished = stages.finished_chunks(session, self.lease.job_id, name)
        found = []
        for number, manifest in finished:
            try:
                path = self._folder(_chunk_name(name, number), manifest)
            except BlobError as problem:
                self._forget(name, problem, partial(stages.forget_chunk, lease=self.lease, name=name, number=number))
            else:
                found.append({"chunk": number, "path": str(path), "manifest": manifest})
        return {"chunks": found}

    def _seconds(self, _message: Message) -> Answer:
        with transaction(read_only=True) as session:
            return {"seconds": stages.stage_seconds(session, self.lease.job_id)}

    def _halved(self, _message: Message) -> Answer:
        with transaction(read_only=True) as session:
            return {"notes": warned_of(session, self.lease.job_id, "batch_halved")}

    # --- files, progress, events ----------------------------------------------------------------------------------

    def _folder(self, name: str, manifest: Mapping[str, Any]) -> Path:
        """The files of a stored value, brought here if need be. Raises BlobError when one cannot be read as it was."""
        if name in self._own:
            return self._own[name]
        folder = self.scratch / "in" / name
        for path, entry in manifest["files"].items():
            blobs().fetch(entry["sha256"], folder / _inside(path))
        self._own[name] = folder
        return folder

    def _store(self, message: Message) -> tuple[Path, dict[str, Any]]:
        """Puts the files a manifest names into the blob store, before any row names them."""
        folder = Path(message["path"]).resolve()
        if not folder.is_relative_to(self.scratch):
            raise ProtocolError(f"{folder} is outside the runner's scratch folder")
        for path, entry in message["manifest"]["files"].items():
            stored = blobs().put_path(folder / _inside(path))
            if stored.sha256 != entry["sha256"]:
                raise ProtocolError(f"{path} of {message['stage']} changed while it was stored")
        return folder, dict(message["manifest"])

    def _forget(self, name: str, problem: BlobError, forget: Callable[[Any], None]) -> None:
        """An output that cannot be read is made again, by the job's own worker."""
        if self.lease.helper:
            return
        with transaction() as session:
            forget(session)
            data = {"stage": name, "code": "artifact_corrupt", "sha256": problem.sha256}
            add_event(session, self.lease.job_id, f"{name} is made again: {problem}", level="warn", data=data)

    def _show(self, stage: str, step: int, total: int, metrics: Mapping[str, float] | None = None) -> None:
        number = stage.partition("/")[0].removeprefix("round-")
        self._progress = {
            "phase": stage.rpartition("/")[2],
            "stage": stage,
            "step": step,
            "total": total,
            "percent": round(100 * step / total, 1) if total else 0.0,  # of this stage
            "round": int(number) if number.isdigit() else None,
            "rounds": self.rounds,
        }
        if metrics:
            self._metrics = {"stage": stage, "step": step, "total_steps": total, **metrics}

    def _event(self, message: Message) -> None:
        level: Level = message["level"] if message["level"] in ("info", "warn", "error") else "info"
        with transaction() as session:
            hold(session, self.lease)
            add_event(session, self.lease.job_id, str(message["message"]), level=level, data=message.get("data"))


def _chunk_name(stage: str, number: int) -> str:
    return f"{stage}/{number:05d}"


def _inside(path: str) -> PurePosixPath:
    """A relative path that stays below its folder; the runner is not trusted with more."""
    clean = PurePosixPath(path)
    if clean.is_absolute() or ".." in clean.parts:
        raise ProtocolError(f"{path!r} leaves its folder")
    return clean
