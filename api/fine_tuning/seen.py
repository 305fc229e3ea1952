"""Held-out rows that the adapter an order goes on from may have learned, by the files of every job it comes from.

Small files only, as in checks.py. The runner compares labeled files of any size (worker/semisup/start.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api.deps import Caller
from api.files.reading import readers_wanted
from api.fine_tuning.checks import Warned, as_warned
from api.fine_tuning.order import Order
from models.queries.lineage import ancestors, labeled_files, unlabeled_files
from models.settings import settings
from models.tables import File
from worker import parsing

MAX_EARLIER = 100  # files of either kind that one order is compared with: a reader may open a few hundred


def check_seen(session: Session, caller: Caller, order: Order, rows: Mapping[str, RowMapping]) -> list[Warned]:
    """`rows` are the files of the order by request field.

    Held-out rows that are labeled rows of an earlier job raise DataError `test_leakage`, or are warned of, as
    `evaluation.on_leakage` says. Of its unlabeled rows the adapter may have learned pseudo-labels: a warning is all there is.
    """
    start, limit = order.before.start, settings().inline_validation_bytes
    judged = {param.rpartition(".")[2]: row for param, row in rows.items()}
    judged = {role.removesuffix("_file"): row for role, row in judged.items() if role in ("test_file", "validation_file")}
    if start is None or not judged:
        return []
    line = ancestors(session, caller.tenant_id, start["id"])
    # What is this job's own file too, checks.py compares.
    learned = [file for file in labeled_files(session, line) if file.id != order.training_file][:MAX_EARLIER]  # nearest first
    unlabeled = _nearest([file for file in unlabeled_files(session, line) if file.id != order.unlabeled_file], limit)
    if any(size > limit for size in [file.bytes for file in learned] + [row["bytes"] for row in judged.values()]):
        return []
    tests = {role: parsing.Source(row["sha256"], row["filename"], row["options"]) for role, row in judged.items()}
    with readers_wanted():
        return as_warned(parsing.seen(tests, _sources(learned), _sources(unlabeled), order.spec.model_dump(mode="json")))


def _nearest(files: Sequence[File], limit: int) -> list[File]:
    """Those of the nearest jobs, `limit` bytes of them: an order waits until they are read."""
    files = files[:MAX_EARLIER]
    sizes = accumulate(file.bytes for file in files)
    return [file for file, read in zip(files, sizes, strict=True) if read <= limit]


def _sources(files: Iterable[File]) -> list[parsing.Source]:
    return [parsing.Source(file.sha256, file.filename, file.options) for file in files]
