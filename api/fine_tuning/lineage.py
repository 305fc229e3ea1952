"""Orders that build on an earlier job: `from_job` goes on from its adapter, `fork` takes over its stages (docs/continue.md).

`model: "ft:…"` is OpenAI's way to say `from_job`, and means the same here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import ValidationError
from sqlalchemy import RowMapping
from sqlalchemy.orm import Session

from api.deps import Caller
from api.errors import BadRequest, Conflict
from api.problems import of_spec
from models.queries import jobs
from models.queries.lineage import kept_stages
from models.settings import settings
from models.status import TERMINAL, JobStatus
from worker.semisup.errors import SpecError
from worker.semisup.lineage import ALWAYS_AGAIN, taken_over
from worker.semisup.spec import JobSpec
from worker.semisup.start import check_start as check_adapter

ROLES = ("training_file", "validation_file", "unlabeled_file", "test_file")
TAGS = ("strategy", "kind")  # what tells the members of spec.py's unions apart


class Find(Protocol):
    def job(self, job_id: str) -> RowMapping | None: ...

    def adapter(self, name: str) -> RowMapping | None: ...


@dataclass(frozen=True)
class Mine:
    """The caller's own jobs and adapters: nobody builds on another tenant's."""

    session: Session
    caller: Caller

    def job(self, job_id: str) -> RowMapping | None:
        return jobs.get_job(self.session, self.caller.tenant_id, job_id)

    def adapter(self, name: str) -> RowMapping | None:
        return jobs.get_adapter(self.session, self.caller.tenant_id, name)


@dataclass(frozen=True)
class Before:
    """The earlier jobs of an order. `start`: whose adapter it goes on from. `forked`: whose stages it takes over."""

    model: str | None = None  # the base LM: the given one, or theirs
    start: RowMapping | None = None
    forked: RowMapping | None = None
    round: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)  # where from_job, fork.job and fork.round stood in the request


def find_before(
    find: Find, model: str | None, from_job: str | None, fork: Mapping[str, Any], params: Mapping[str, str]
) -> Before:
    """Raises BadRequest for jobs that do not exist or do not fit each other, Conflict for a job in the wrong state."""
    start = None
    if model is not None and model not in settings().base_lms and (found := find.adapter(model)):
        start, model = found, found["base_lm"]
        params = {"from_job": "model", **params}
        if from_job not in (None, found["id"]):
            raise _contradiction(f"The model is the adapter of {found['id']}", params["from_job"], str(from_job))
    elif from_job is not None:
        start = _must_find(find, from_job, params["from_job"])
    forked = _must_find(find, fork["job"], params["fork"]) if fork else None
    if forked is not None:
        if forked["status"] not in TERMINAL:
            raise _wrong_state(forked, params["fork"], "ended", "Wait for its end, or cancel it.")
        if start is not None and start["id"] != forked["from_job"]:
            goes_on = f"goes on from {forked['from_job']}" if forked["from_job"] else "starts from the base language model"
            raise _contradiction(
                f"A fork starts where its job did, and {forked['id']} {goes_on}", params["from_job"], start["id"]
            )
        start = find.job(forked["from_job"]) if forked["from_job"] else None
    elif start is not None and start["status"] != JobStatus.succeeded:
        hint = "Fork it, to use what it has." if start["status"] in TERMINAL else "Wait until it has succeeded."
        raise _wrong_state(start, params["from_job"], "succeeded", hint)
    earlier = forked if forked is not None else start
    if earlier is not None:
        if model not in (None, earlier["base_lm"]):
            raise _contradiction(f"The base language model of {earlier['id']} is {earlier['base_lm']!r}", "model", str(model))
        model = earlier["base_lm"]
    return Before(model, start, forked, fork.get("round"), params)


def inherited_files(before: Before, given: Mapping[str, str | None], params: Mapping[str, str]) -> dict[str, str | None]:
    """File ids by role that the order leaves to its earlier job. Raises BadRequest where a fork is given other files."""
    if before.forked is not None:
        theirs = {role: before.forked[role] for role in ROLES}
        for role in ROLES:
            if given[role] not in (None, theirs[role]):
                said = f"A fork has the files of its job; '{role}' of {before.forked['id']} is {theirs[role]}"
                raise _contradiction(said, params.get(role, role), str(given[role]))
        return {role: theirs[role] for role in ROLES if given[role] is None}
    if before.start is None:
        return {}
    judged = ("validation_file", "test_file")
    left = {role: before.start[role] for role in judged} if all(given[role] is None for role in judged) else {}
    return left | ({"training_file": before.start["training_file"]} if given["training_file"] is None else {})


def laid_over(before: Before, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the spec is made from: a fork changes what it gives and keeps everything else of its job's spec."""
    if before.forked is None:
        return given
    if given.get("profile", before.forked["spec"].get("profile")) != before.forked["spec"].get("profile"):
        message = "A fork keeps the profile of its job: every field a profile would fill in is filled in already."
        raise BadRequest(
            message, code="conflicting_fields", param="profile", hint="Leave it out, and give the fields to change."
        )
    return _over(_readable(before.forked, before.params["fork"]).model_dump(mode="json"), given)


def _over(under: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` laid on `under`, block by block; another member of a union replaces the whole block.

    A block that names no member is of the earlier job's. Where that is "auto", which leaves the choice to us, and has no such
    field, it is of the member that a new job would read it as: {"theta": 30} is the percentile's.
    """
    fits = given.keys() <= under.keys()
    out = {key: value for key, value in under.items() if fits or key not in TAGS or value != "auto"}
    for key, value in given.items():
        below = out.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        same = both and all(value.get(tag) in (None, below.get(tag)) for tag in TAGS)  # type: ignore[union-attr]
        out[key] = _over(below, value) if same else value  # type: ignore[arg-type]
    return out


def check_start(before: Before, spec: JobSpec, files: Mapping[str, str | None]) -> None:
    """Raises BadRequest where the new job cannot go on from the adapter, or would be judged on rows it has learned."""
    start = before.start
    if start is None:
        return
    theirs = start["spec"]
    try:
        check_adapter(spec, theirs["hyperparameters"], whose=start["id"], unlabeled=bool(files["unlabeled_file"]))
    except SpecError as problem:
        raise of_spec(problem, "method.semi_supervised") from None
    if files["test_file"] or files["validation_file"]:
        return
    ours = spec.model_dump(mode="json")
    drawn = [(s["seed"], s["answer"], s["evaluation"]["held_out_fraction"]) for s in (theirs, ours)]  # answers are its strata
    if drawn[0] != drawn[1] or start["training_file"] != files["training_file"]:
        raise BadRequest(
            f"Rows held out of '{files['training_file']}' may be rows that the adapter of {start['id']} was trained on.",
            code="missing_field",
            param="test_file",
            hint="Give a test_file; or leave training_file, seed, answer and evaluation.held_out_fraction as they were.",
        )


# --- what a fork takes over -------------------------------------------------------------------------------------------


def plan(session: Session, before: Before, spec: JobSpec) -> dict[str, Any] | None:
    """The job row's `fork`: names of stages that are taken over, and of those the earlier job has that run again."""
    if before.forked is None:
        return None
    was = _readable(before.forked, before.params["fork"])
    if before.round is not None and before.round > was.rounds:
        raise BadRequest(
            f"{before.forked['id']} has {was.rounds} round{'' if was.rounds == 1 else 's'}; got {before.round}.",
            code="out_of_range",
            param=before.params["fork.round"],
            hint=f"Use a round between 1 and {was.rounds}, or leave it out.",
        )
    kept = [stage.name for stage in kept_stages(session, before.forked["id"])]
    taken = taken_over(kept, was, spec, before.round)
    again = [name for name in kept if name not in taken and name not in ALWAYS_AGAIN]
    return {"job": before.forked["id"], "round": before.round, "taken_over": taken, "run_again": again}


def told(fork: Mapping[str, Any]) -> str:
    """The plan in words, for the job's history."""
    count = len(fork["taken_over"])
    run_again: Sequence[str] = fork["run_again"]
    again = f"; these run again: {', '.join(run_again)}" if run_again else ""
    return f"Fork of {fork['job']}: {count} of its stages need{'s' if count == 1 else ''} no second run{again}"


def _readable(row: RowMapping, param: str) -> JobSpec:
    try:
        return JobSpec.model_validate(row["spec"])
    except ValidationError:
        raise BadRequest(
            f"The spec of {row['id']} is of another version of this service.",
            code="invalid_value",
            param=param,
            hint="Start a new job with the same files.",
        ) from None


def _must_find(find: Find, job_id: str, param: str) -> RowMapping:
    row = find.job(job_id)
    if row is None:
        shown = job_id[:64].encode("ascii", "backslashreplace").decode()
        message = f"'{param}': no job '{shown}'."
        raise BadRequest(message, code="job_not_found", param=param, hint="GET /v1/fine_tuning/jobs lists yours.")
    return row


def _wrong_state(row: RowMapping, param: str, wanted: str, hint: str) -> Conflict:
    return Conflict(
        f"The job {row['id']} is {row['status']}, and has not {wanted}.", code="invalid_state", param=param, hint=hint
    )


def _contradiction(said: str, param: str, got: str) -> BadRequest:
    return BadRequest(
        f"{said}; '{param}' is {got!r:.100}.",
        code="conflicting_fields",
        param=param,
        hint=f"Leave '{param}' out, or make it equal.",
    )
