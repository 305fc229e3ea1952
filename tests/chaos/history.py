"""What happened, from four sides: what clients were told, what runners did, what the database let happen, what is left.

Runners append to a file of their own (runner.py), clients and the nemesis to lists, and triggers in the database write down
every move of a job and of a stage in the order in which they took effect: nothing the service says about itself is believed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, text

from models.blobs import BlobError, Blobs
from models.tables import Base


@dataclass(frozen=True)
class Op:
    """What a client asked for. `outcome`: ok, refused (4xx), or unknown (no answer, or a 5xx)."""

    at: float
    what: str  # submit, cancel, pause, resume
    key: str  # of a submit: its Idempotency-Key, which stands in the job's metadata too
    job: str | None
    outcome: str


@dataclass(frozen=True)
class Deed:
    """A line a runner wrote. `what`: start, start assist, begin X, end X."""

    at: float
    pid: int
    token: int
    job: str
    what: str


STANDSTILL = "stop_machine"  # a fault of nobody's: see pulse.py


@dataclass(frozen=True)
class Fault:
    """From `at` to `until`, epoch seconds."""

    at: float
    until: float
    name: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Move:
    """A change that took effect, by the database's own account. `holder`: the lease token the job had at that moment."""

    number: int
    at: float
    kind: str  # job, stage, chunk
    job: str
    name: str
    before: str | None
    after: str | None
    token: int | None
    holder: int | None
    content: str | None  # the manifest, of a stage or a chunk


@dataclass
class History:
    lease_seconds: float
    settle_seconds: float  # what detection may take beyond a lease: a sweep, a heartbeat, a slow machine
    ops: list[Op] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)  # id, status, key, kind, error, hash, adapter_name
    samples: list[dict[str, Any]] = field(default_factory=list)  # job, round, query_id, verdict
    counts: list[dict[str, Any]] = field(default_factory=list)  # job, rows, summary, api, selected
    bad_blobs: list[str] = field(default_factory=list)  # sha256 of files that finished jobs name and the store has not
    references: dict[str, str] = field(default_factory=dict)  # kind of job -> hash of the undisturbed run

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Self:
        plain = json.loads(path.read_text())
        for name, one in (("ops", Op), ("deeds", Deed), ("faults", Fault), ("moves", Move)):
            plain[name] = [one(**row) for row in plain[name]]
        plain["faults"] = [replace(fault, pids=tuple(fault.pids)) for fault in plain["faults"]]
        return cls(**plain)


TABLE = "chaos_moves"
KINDS = {  # table -> (kind, columns of Move from its row: job, name, status, token, manifest)
    "jobs": ("job", "id", "''", "status", "lease_token", "NULL"),
    "stages": ("stage", "job_id", "name", "status", "token", "manifest"),
    "chunks": ("chunk", "job_id", "stage || '/' || number", "status", "lease_token", "manifest"),
}
CHANGED = {"jobs": ("status", "lease_token"), "stages": ("status", "manifest"), "chunks": ("status", "manifest", "lease_token")}


def install(engine: Engine) -> None:
    """Makes the table of moves and the triggers that fill it, in a database that nothing runs on yet."""
    postgres = engine.dialect.name == "postgresql"
    serial, real = ("bigserial primary key", "double precision") if postgres else ("integer primary key autoincrement", "real")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"create table {TABLE} (number {serial}, at {real}, kind text, job text, name text, before text, after text, "
            "token bigint, holder bigint, content text)"
        )
        for table, columns in KINDS.items():
            (_postgres if postgres else _sqlite)(connection, table, columns)


def _insert(columns: tuple[str, ...], row: str, before: str, after: str, clock: str, cast: str) -> str:
    kind, job, name, _, token, manifest = columns
    holder = f"(select lease_token from jobs where id = {row}.{job})"
    name = name.replace("stage", f"{row}.stage").replace("number", f"{row}.number") if "stage" in name else name
    name = f"{row}.name" if name == "name" else name
    content = "NULL" if manifest == "NULL" else f"{cast}({row}.{manifest}{'::text' if cast else ''})"
    columns_ = "at, kind, job, name, before, after, token, holder, content"
    values = f"{clock}, '{kind}', {row}.{job}, {name}, {before}, {after}, {row}.{token}, {holder}, {content}"
    return f"insert into {TABLE} ({columns_}) values ({values});"


def _sqlite(connection: Connection, table: str, columns: tuple[str, ...]) -> None:
    clock, status = "(julianday('now') - 2440587.5) * 86400.0", columns[3]
    changed = " or ".join(f"old.{name} is not new.{name}" for name in CHANGED[table])
    for happening, row, before, after, when in (
        ("insert", "new", "NULL", f"new.{status}", ""),
        ("update", "new", f"old.{status}", f"new.{status}", f"when {changed}"),
        ("delete", "old", f"old.{status}", "NULL", ""),
    ):
        body = _insert(columns, row, before, after, clock, "")
        name = f"chaos_{table}_{happening}"
        connection.exec_driver_sql(f"create trigger {name} after {happening} on {table} {when} begin {body} end")


def _postgres(connection: Connection, table: str, columns: tuple[str, ...]) -> None:
    clock, status = "extract(epoch from clock_timestamp())", columns[3]
    changed = " or ".join(f"old.{name} is distinct from new.{name}" for name in CHANGED[table])
    gone = _insert(columns, "old", f"old.{status}", "NULL", clock, "md5")
    came = _insert(columns, "new", "NULL", f"new.{status}", clock, "md5")
    moved = _insert(columns, "new", f"old.{status}", f"new.{status}", clock, "md5")
    connection.exec_driver_sql(
        f"create function chaos_{table}() returns trigger language plpgsql as $$ begin "
        f"if tg_op = 'DELETE' then {gone} elsif tg_op = 'INSERT' then {came} elsif {changed} then {moved} end if; "
        "return null; end $$"
    )
    connection.exec_driver_sql(
        f"create trigger chaos after insert or update or delete on {table} for each row execute function chaos_{table}()"
    )


def moves(connection: Connection) -> list[Move]:
    found = connection.execute(text(f"select * from {TABLE} order by number")).mappings()
    return [Move(**{**row, "content": row["content"] and _short(row["content"])}) for row in found]


def _short(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def deeds(path: Path) -> list[Deed]:
    written = path.read_text().splitlines() if path.exists() else []
    return [Deed(**json.loads(line)) for line in written]


def everything(connection: Connection, blobs: Blobs, history: History) -> None:
    """Reads the moves and what is left in the tables into `history`."""
    tables = Base.metadata.tables
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("select set_config('semift.tenant', '*', false)")
    history.moves = moves(connection)
    rows = {name: [dict(row) for row in connection.execute(tables[name].select()).mappings()] for name in READ}
    of: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in READ}
    for name in READ:
        for row in rows[name]:
            of[name].setdefault(row.get("job_id") or row["id"], []).append(row)
    for job in rows["jobs"]:
        left = {name: of[name].get(job["id"], []) for name in READ}
        history.jobs.append(
            {name: job[name] for name in ("id", "status", "error", "adapter_name", "lease_until")}
            | {"key": job["job_metadata"].get("key"), "kind": job["job_metadata"].get("kind"), "hash": fingerprint(left)}
        )
        history.samples += [
            {name: row[name] for name in ("round", "query_id", "verdict")} | {"job": job["id"]} for row in left["samples"]
        ]
        if job["status"] == "succeeded":
            selected = sum(row["verdict"] == "selected" for row in left["samples"])
            summed = [row["summary"] for row in left["rounds"]]
            history.counts.append(
                {
                    "job": job["id"],
                    "rows": len(left["samples"]),
                    "summary": sum(one.get("selected", 0) + one.get("rejected", 0) for one in summed),
                    "selected": selected,
                    "summary_selected": sum(one.get("selected", 0) for one in summed),
                }
            )
    named = {(entry["sha256"]) for entry in _files(rows)}
    history.bad_blobs = sorted(name for name in named if not _whole(blobs, name))


READ = ("jobs", "stages", "chunks", "samples", "rounds", "artifacts", "checkpoints")


def _files(rows: Mapping[str, list[dict[str, Any]]]) -> Iterable[dict[str, Any]]:
    done = {job["id"] for job in rows["jobs"] if job["status"] == "succeeded"}
    for row in [*rows["stages"], *rows["chunks"]]:
        if row["job_id"] in done and row["manifest"]:
            yield from row["manifest"]["files"].values()
    yield from (row for row in rows["artifacts"] if row["job_id"] in done)


def _whole(blobs: Blobs, sha256: str) -> bool:
    digest = hashlib.sha256()
    try:
        with blobs.open(sha256) as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
    except BlobError:
        return False
    return digest.hexdigest() == sha256


def fingerprint(left: Mapping[str, list[dict[str, Any]]]) -> str:
    """A hash of everything a job leaves behind that must not depend on what happened to it on the way."""
    kept = {
        "stages": sorted((row["name"], _plain(row["manifest"])) for row in left["stages"]),
        "chunks": sorted((row["stage"], row["number"], _plain(row["manifest"])) for row in left["chunks"]),
        "samples": sorted(
            (row["round"], row["query_id"], row["position"], row["verdict"], row["pseudo_label"], _plain(row["votes"]))
            for row in left["samples"]
        ),
        "artifacts": sorted((row["path"], row["sha256"], row["bytes"]) for row in left["artifacts"]),
        "rounds": sorted((row["number"], _plain(row["summary"])) for row in left["rounds"]),
        "checkpoints": sorted((row["step_number"], _plain(row["metrics"])) for row in left["checkpoints"]),
    }
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
