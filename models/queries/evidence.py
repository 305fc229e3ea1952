"""What a job leaves behind, for reading by its tenant: stages, rounds, samples, checkpoints, artefacts."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import ColumnElement, RowMapping, and_, func, select
from sqlalchemy.orm import Session

from models.queries.jobs import JOBS, is_of
from models.queries.paging import Page, UnknownCursor, page
from models.tables import Artifact, Checkpoint, Chunk, Round, SampleRow, Stage

STAGES, CHUNKS, ROUNDS, SAMPLES = Stage.__table__, Chunk.__table__, Round.__table__, SampleRow.__table__
CHECKPOINTS, ARTIFACTS = Checkpoint.__table__, Artifact.__table__

SampleOrder = Literal["position", "mean_nll", "-mean_nll"]
SampleKey = tuple[int, str]  # round, query id
LAST = sys.float_info.max  # stands for a missing mean_nll: such rows come last in either direction


def list_stages(session: Session, tenant_id: str, job_id: str) -> Sequence[RowMapping]:
    """All stages in order of opening, each with how many of its chunks are done."""
    done = (
        select(func.count())
        .select_from(CHUNKS)
        .where(CHUNKS.c.job_id == STAGES.c.job_id, CHUNKS.c.stage == STAGES.c.name, CHUNKS.c.status == "done")
        .scalar_subquery()
    )
    rows = select(STAGES, done.label("chunks_done")).where(STAGES.c.job_id == job_id, is_of(tenant_id, job_id))
    return session.execute(rows.order_by(STAGES.c.position, STAGES.c.name)).mappings().all()


def list_rounds(session: Session, tenant_id: str, job_id: str) -> Sequence[RowMapping]:
    mine = select(ROUNDS).where(ROUNDS.c.job_id == job_id, is_of(tenant_id, job_id))
    return session.execute(mine.order_by(ROUNDS.c.number)).mappings().all()


def list_artifacts(session: Session, tenant_id: str, job_id: str) -> Sequence[RowMapping]:
    mine = select(ARTIFACTS).where(ARTIFACTS.c.job_id == job_id, is_of(tenant_id, job_id))
    return session.execute(mine.order_by(ARTIFACTS.c.path)).mappings().all()


def artifact_paths(session: Session, tenant_id: str, job_ids: Sequence[str]) -> Sequence[RowMapping]:
    """(job_id, path) of every artefact of these jobs: one query for a page of jobs."""
    theirs = select(JOBS.c.id).where(JOBS.c.tenant_id == tenant_id, JOBS.c.id.in_(job_ids))
    rows = select(ARTIFACTS.c.job_id, ARTIFACTS.c.path).where(ARTIFACTS.c.job_id.in_(theirs))
    return session.execute(rows.order_by(ARTIFACTS.c.job_id, ARTIFACTS.c.path)).mappings().all()


def get_artifact(session: Session, tenant_id: str, job_id: str, path: str) -> RowMapping | None:
    mine = select(ARTIFACTS).where(ARTIFACTS.c.job_id == job_id, ARTIFACTS.c.path == path, is_of(tenant_id, job_id))
    return session.execute(mine).mappings().first()


def page_checkpoints(session: Session, tenant_id: str, job_id: str, *, after: str | None, limit: int, descending: bool) -> Page:
    """Raises UnknownCursor."""
    mine, place = and_(CHECKPOINTS.c.job_id == job_id, is_of(tenant_id, job_id)), None
    if after is not None:
        place = session.scalar(select(CHECKPOINTS.c.step_number).where(mine, CHECKPOINTS.c.id == after))
        if place is None:
            raise UnknownCursor(after)
    keys = (CHECKPOINTS.c.step_number,)
    return page(
        session, select(CHECKPOINTS).where(mine), keys, None if place is None else (place,), limit=limit, descending=descending
    )


def get_sample(session: Session, tenant_id: str, job_id: str, query_id: str, round_number: int | None) -> RowMapping | None:
    """The sample of that round, or of the last round that judged the row."""
    rows = select(SAMPLES).where(SAMPLES.c.job_id == job_id, SAMPLES.c.tenant_id == tenant_id, SAMPLES.c.query_id == query_id)
    if round_number is not None:
        rows = rows.where(SAMPLES.c.round == round_number)
    return session.execute(rows.order_by(SAMPLES.c.round.desc()).limit(1)).mappings().first()


def page_samples(
    session: Session,
    tenant_id: str,
    job_id: str,
    *,
    round_number: int | None,
    verdict: str | None,
    min_mean_nll: float | None,
    max_mean_nll: float | None,
    order: SampleOrder,
    after: SampleKey | None,
    limit: int,
) -> Page:
    """In upload order round by round, or by confidence. Raises UnknownCursor."""
    rows = select(SAMPLES).where(SAMPLES.c.job_id == job_id, SAMPLES.c.tenant_id == tenant_id)
    if round_number is not None:
        rows = rows.where(SAMPLES.c.round == round_number)
    if verdict is not None:
        rows = rows.where(SAMPLES.c.verdict == verdict)
    if min_mean_nll is not None:
        rows = rows.where(SAMPLES.c.mean_nll >= min_mean_nll)
    if max_mean_nll is not None:
        rows = rows.where(SAMPLES.c.mean_nll <= max_mean_nll)
    upload_order = (SAMPLES.c.round, SAMPLES.c.position, SAMPLES.c.query_id)
    by_nll: dict[SampleOrder, tuple[ColumnElement[Any], ...]] = {
        "position": (),
        "mean_nll": (func.coalesce(SAMPLES.c.mean_nll, LAST),),
        "-mean_nll": (func.coalesce(-SAMPLES.c.mean_nll, LAST),),
    }
    keys = (*by_nll[order], *upload_order)
    return page(session, rows, keys, _sample_place(session, tenant_id, job_id, keys, after), limit=limit, descending=False)


def _sample_place(
    session: Session, tenant_id: str, job_id: str, keys: Sequence[ColumnElement[Any]], after: SampleKey | None
) -> tuple[Any, ...] | None:
    if after is None:
        return None
    mine = (
        SAMPLES.c.job_id == job_id,
        SAMPLES.c.tenant_id == tenant_id,
        SAMPLES.c.round == after[0],
        SAMPLES.c.query_id == after[1],
    )
    place = session.execute(select(*keys).where(*mine)).first()
    if place is None:
        raise UnknownCursor(f"{after[0]}:{after[1]}")
    return tuple(place)
