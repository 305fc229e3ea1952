"""What collaborators name must exist: another base LM, a fine-tuned model of the caller's, an engine of the operator's."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from api.deps import Caller
from api.errors import BadRequest
from api.fine_tuning.order import SEMI, Order
from api.problems import did_you_mean
from models.queries import jobs
from models.settings import settings

SHOWN = 20


def check_collaborators(session: Session, caller: Caller, order: Order) -> None:
    """Raises BadRequest at the first name nobody has."""
    here, given = settings(), order.spec.propagation.collaborators
    for number, collaborator in enumerate(given if isinstance(given, tuple) else ()):  # "auto" names nothing outside
        where = f"{SEMI}.propagation.collaborators.{number}"
        if collaborator.lm and collaborator.lm not in here.base_lms:
            raise _unknown("model", collaborator.lm, here.base_lms, code="model_not_allowed", param=f"{where}.lm")
        if collaborator.engine and collaborator.engine not in here.engines:
            raise _unknown("engine", collaborator.engine, here.engines, code="unknown_engine", param=f"{where}.engine")
        if collaborator.adapter:
            _check_adapter(session, caller, collaborator.adapter, f"{where}.adapter")


def _check_adapter(session: Session, caller: Caller, name: str, param: str) -> None:
    row = jobs.get_adapter(session, caller.tenant_id, name)
    if row is None:
        mine = [found["adapter_name"] for found in jobs.finished_adapters(session, caller.tenant_id)]
        raise _unknown("fine-tuned model", name, mine, code="model_not_found", param=param)
    if row["base_lm"] not in settings().base_lms:
        raise BadRequest(
            f"The base of {name!r:.100}, {row['base_lm']!r}, is not offered here any more.",
            code="model_not_allowed",
            param=param,
            hint="Choose a model whose base is listed by GET /v1/models.",
        )


def _unknown(noun: str, name: str, known: Iterable[str], *, code: str, param: str) -> BadRequest:
    shown = ", ".join(sorted(known)[:SHOWN])
    return BadRequest(
        f"The {noun} {name[:100]!r} is not offered here. Offered: {shown or 'none'}.",
        code=code,
        param=param,
        hint=did_you_mean(name, known) or (f"Use one of {shown}." if shown else f"No {noun} is offered: leave it out."),
    )
