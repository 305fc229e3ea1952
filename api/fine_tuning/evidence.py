"""What a job leaves behind, read for its tenant."""

import re
from typing import NamedTuple

from api.deps import Caller, PageAsked
from api.errors import NotFound
from api.files.service import Content
from api.fine_tuning import schemas, wire
from api.fine_tuning.service import must_have
from api.wire import ListOf, list_of
from models.db import transaction
from models.queries import evidence, jobs
from models.queries.evidence import SampleKey, SampleOrder
from models.queries.paging import UnknownCursor

_EVENT_ID = re.compile(rf"{wire.EVENT_PREFIX}(\d{{1,18}})", re.ASCII)
_SAMPLE_ID = re.compile(r"(\d{1,4}):(.+)", re.ASCII | re.DOTALL)


class SampleFilter(NamedTuple):
    round_number: int | None
    verdict: str | None
    min_mean_nll: float | None
    max_mean_nll: float | None
    order: SampleOrder
    after: str | None
    limit: int


def events(caller: Caller, job_id: str, asked: PageAsked) -> ListOf[schemas.Event]:
    after = None
    if asked.after is not None:
        match = _EVENT_ID.fullmatch(asked.after)
        if match is None:
            raise UnknownCursor(asked.after)
        after = int(match[1])
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        page = jobs.page_events(session, caller.tenant_id, job_id, after=after, limit=asked.limit, descending=asked.descending)
    return list_of([wire.event(row) for row in page.rows], page.has_more)


def checkpoints(caller: Caller, job_id: str, asked: PageAsked) -> ListOf[schemas.Checkpoint]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        page = evidence.page_checkpoints(session, caller.tenant_id, job_id, **asked._asdict())
    return list_of([wire.checkpoint(row) for row in page.rows], page.has_more)


def rounds(caller: Caller, job_id: str) -> ListOf[schemas.Round]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        rows = evidence.list_rounds(session, caller.tenant_id, job_id)
    return list_of([wire.round_object(row) for row in rows], id_of="number")


def stages(caller: Caller, job_id: str) -> ListOf[schemas.Stage]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        job = must_have(session, caller, job_id)
        rows = evidence.list_stages(session, caller.tenant_id, job_id)
    progress = wire.job_object(job, []).progress
    return list_of([wire.stage(row, progress) for row in rows], id_of="name")


def samples(caller: Caller, job_id: str, asked: SampleFilter) -> ListOf[schemas.Sample]:
    after = None if asked.after is None else _sample_key(asked.after)
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        page = evidence.page_samples(session, caller.tenant_id, job_id, **{**asked._asdict(), "after": after})
    return list_of([wire.sample(row) for row in page.rows], page.has_more)


def sample(caller: Caller, job_id: str, sample_id: str, round_number: int | None) -> schemas.Sample:
    """By query id (then of the given or the last round), or by the `<round>:<query id>` lists show."""
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        row = evidence.get_sample(session, caller.tenant_id, job_id, sample_id, round_number)
        match = _SAMPLE_ID.fullmatch(sample_id)
        if row is None and match:
            row = evidence.get_sample(session, caller.tenant_id, job_id, match[2], int(match[1]))
    if row is None:
        raise NotFound("No such sample.", code="sample_not_found", param="query_id", hint="GET …/samples lists them.")
    return wire.sample(row)


def artifacts(caller: Caller, job_id: str) -> ListOf[schemas.Artifact]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        rows = evidence.list_artifacts(session, caller.tenant_id, job_id)
    return list_of([wire.artifact(row) for row in rows], id_of="path")


def artifact(caller: Caller, job_id: str, path: str) -> Content:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        must_have(session, caller, job_id)
        row = evidence.get_artifact(session, caller.tenant_id, job_id, path)
    if row is None:
        raise NotFound("No such artefact.", code="artifact_not_found", param="path", hint="GET …/artifacts lists them.")
    return Content(row["sha256"], row["bytes"], row["path"].rpartition("/")[2])


def _sample_key(cursor: str) -> SampleKey:
    match = _SAMPLE_ID.fullmatch(cursor)
    if match is None:
        raise UnknownCursor(cursor)
    return int(match[1]), match[2]
