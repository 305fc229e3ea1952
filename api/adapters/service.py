"""Models on the wire: what a job may start from, and what finished jobs made. Deleting an adapter hides it; its job stays."""

from sqlalchemy import RowMapping

from api.adapters.schemas import ModelObject
from api.deps import Caller
from api.errors import Forbidden, NotFound
from api.wire import Deleted, ListOf, list_of
from models.db import transaction
from models.queries import jobs
from models.settings import settings

BASE_CREATED = 0  # base language models come with the server: OpenAI's shape wants a time, and there is none


def listing(caller: Caller) -> ListOf[ModelObject]:
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        adapters = jobs.finished_adapters(session, caller.tenant_id)
    return list_of([_base(name) for name in sorted(settings().base_lms)] + [_adapter(row) for row in adapters])


def retrieve(caller: Caller, name: str) -> ModelObject:
    if name in settings().base_lms:
        return _base(name)
    with transaction(tenant=caller.tenant_id, read_only=True) as session:
        row = jobs.get_adapter(session, caller.tenant_id, name)
    if row is None:
        raise _no_model(name)
    return _adapter(row)


def delete(caller: Caller, name: str) -> Deleted:
    if name in settings().base_lms:
        raise Forbidden(
            f"{name!r} is a base language model of this server.",
            code="not_deletable",
            param="model",
            hint="The operator removes it from SEMIFT_BASE_LMS.",
        )
    with transaction(tenant=caller.tenant_id) as session:
        if not jobs.hide_adapter(session, caller.tenant_id, name):
            raise _no_model(name)
    return Deleted(id=name, object="model")


def _base(name: str) -> ModelObject:
    return ModelObject(id=name, created=BASE_CREATED, owned_by="semift")


def _adapter(row: RowMapping) -> ModelObject:
    return ModelObject(
        id=row["adapter_name"],
        created=int(row["finished_at"]),
        owned_by=row["tenant_id"],
        parent=row["base_lm"],
        fine_tuning_job_id=row["id"],
    )


def _no_model(name: str) -> NotFound:
    shown = name[:100].encode("ascii", "backslashreplace").decode()
    return NotFound(f"No model '{shown}'.", code="model_not_found", param="model", hint="GET /v1/models lists them.")
