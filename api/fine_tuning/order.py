"""A job as it was asked for, whichever of four ways the semi-supervised fields travelled (and never two different ways).

1. `method.semi_supervised`, by the client's `method=` or `extra_body=`;  2. top-level `semi_supervised`, `unlabeled_file`
and `test_file` beside a legal `method.type`, for strictly typed clients;  3. `metadata["semi.rounds"] = "3"`, for gateways
that drop unknown keys;  and OpenAI's own `hyperparameters` and `seed`, which are part of the job spec here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from api.errors import BadRequest
from api.fine_tuning.lineage import ROLES, Before, Find, check_start, find_before, inherited_files, laid_over
from api.fine_tuning.schemas import JobCreate, SemiSupervised
from api.problems import as_one, checked
from worker.semisup.spec import JobSpec

CARRIER = "semi."
FILES = ("unlabeled_file", "test_file")
EARLIER = ("from_job", "fork")
SEMI = "method.semi_supervised"
PLAIN = ("hyperparameters", "seed", "test_file", *EARLIER)  # what a job without unlabeled rows may say too

Path = tuple[str, ...]


@dataclass(frozen=True)
class Order:
    model: str
    training_file: str
    validation_file: str | None
    unlabeled_file: str | None
    test_file: str | None
    suffix: str | None
    metadata: dict[str, str]
    method_type: str  # as the client said it: a strictly typed one must read its own words back
    spec: JobSpec
    params: Mapping[str, str]  # where in the request the unlabeled file, the test file and propagation.k stood
    before: Before = field(default_factory=Before)  # the earlier jobs it builds on
    inherited: Mapping[str, str] = field(default_factory=dict)  # role of a file that was not given -> whose it is

    def file_ids(self) -> dict[str, str]:
        """Request field -> file id, of every file the job reads."""
        named = {
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            self.params["unlabeled_file"]: self.unlabeled_file,
            self.params["test_file"]: self.test_file,
        }
        return {param: file_id for param, file_id in named.items() if file_id is not None}


def read_order(body: Mapping[str, Any], find: Find) -> Order:
    """Raises BadRequest naming every field at fault, or both fields that contradict each other.

    `find` looks up the earlier jobs an order names; Conflict is raised for one in the wrong state.
    """
    body = _without_nulls(body)
    asked = checked(JobCreate, body)
    if asked.integrations:
        raise BadRequest(
            "No integrations are served here yet.",
            code="unsupported_value",
            param="integrations",
            hint="Leave 'integrations' out.",
        )
    carried = _from_metadata(asked.metadata or {})
    if carried:
        checked(SemiSupervised, carried, f"metadata.{CARRIER[:-1]}")
    leaves = _merged(body, carried)
    merged = _nested({path: value for path, (value, _) in leaves.items()})
    params = {path[-1]: where for path, (_, where) in leaves.items() if path[0] in FILES or path == ("propagation", "k")}
    stood = {".".join(path): where for path, (_, where) in leaves.items() if path[0] in EARLIER}
    stood = {**stood, "fork": stood.get("fork.job", "fork.job")}
    given = {name: merged.pop(name, None) for name in FILES}
    given |= {"training_file": asked.training_file, "validation_file": asked.validation_file}
    before = find_before(find, asked.model, merged.pop("from_job", None), merged.pop("fork", {}), stood)
    left = inherited_files(before, given, params)
    files = given | left
    _check_needed({"model": before.model, "training_file": files["training_file"]})
    method_type = _method_type(asked, leaves, files["unlabeled_file"])
    spec = checked(JobSpec, laid_over(before, merged), SEMI)
    check_start(before, spec, files)
    whose = before.forked if before.forked is not None else before.start
    return Order(
        **{role: files[role] for role in ROLES},
        model=str(before.model),
        suffix=asked.suffix,
        metadata=dict(asked.metadata or {}),
        method_type=method_type,
        spec=spec,
        params={"k": f"{SEMI}.propagation.k", "unlabeled_file": "unlabeled_file", "test_file": "test_file", **params},
        before=before,
        inherited={role: whose["id"] for role, file_id in left.items() if file_id} if whose is not None else {},
    )


def _check_needed(given: Mapping[str, str | None]) -> None:
    """What an order must say where no earlier job says it."""
    missing = [
        {"code": "missing_field", "param": name, "message": f"'{name}' is required.", "hint": f"Add '{name}'."}
        for name, value in given.items()
        if value is None
    ]
    if missing:
        raise as_one(missing)


def _method_type(asked: JobCreate, leaves: Mapping[Path, tuple[Any, str]], unlabeled: str | None) -> str:
    said = asked.method.type if asked.method else None
    if asked.method and said == "supervised" and asked.method.semi_supervised:
        raise BadRequest(
            f"'method.type' is supervised, but '{SEMI}' is given.",
            code="conflicting_fields",
            param="method.type",
            hint=f"Set method.type to semi_supervised, or leave '{SEMI}' out.",
        )
    if unlabeled is not None:
        return said or "semi_supervised"
    only_semi = [where for path, (_, where) in leaves.items() if path[0] not in PLAIN]
    if said == "semi_supervised" or only_semi:
        because = f"'{only_semi[0]}' is given" if only_semi else "'method.type' is semi_supervised"
        raise BadRequest(
            f"An unlabeled file is required: {because}.",
            code="missing_field",
            param=f"{SEMI}.unlabeled_file",
            hint="Upload your unlabeled rows and give the file's id; for plain SFT leave the semi-supervised fields out.",
        )
    return "supervised"


def _merged(body: Mapping[str, Any], carried: Mapping[str, Any]) -> dict[Path, tuple[Any, str]]:
    """Every leaf that was given, with its value and where it stood. Raises BadRequest where two places differ."""
    method = body.get("method", {})
    sources: list[tuple[str, Mapping[str, Any]]] = [
        (SEMI, method.get("semi_supervised", {})),
        ("semi_supervised", body.get("semi_supervised", {})),
        (f"metadata.{CARRIER[:-1]}", carried),
        ("", {name: body[name] for name in (*FILES, *EARLIER, "seed", "hyperparameters") if name in body}),
        ("method.supervised", method.get("supervised", {})),
    ]
    found: dict[Path, tuple[Any, str]] = {}
    for prefix, block in sources:
        for path, value in _leaves(block):
            where = ".".join((prefix, *path)).lstrip(".")
            known = found.setdefault(path, (value, where))
            if known[0] != value:
                raise BadRequest(
                    f"'{known[1]}' and '{where}' contradict each other: {known[0]!r:.80} and {value!r:.80}.",
                    code="conflicting_fields",
                    param=where,
                    hint="Give the field once, or the same value in both places.",
                )
    return found


def _leaves(block: Mapping[str, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in block.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _nested(leaves: Mapping[Path, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for path, value in leaves.items():
        here = out
        for step in path[:-1]:
            here = here.setdefault(step, {})
        here[path[-1]] = value
    return out


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """`{"semi.propagation.k": "3"}` as `{"propagation": {"k": 3}}`. A value that is no JSON is text."""
    out: dict[str, Any] = {}
    for key, text in metadata.items():
        if not key.startswith(CARRIER):
            continue
        *way, last = key.removeprefix(CARRIER).split(".")
        here: Any = out
        for step in way:
            here = here.setdefault(step, {}) if isinstance(here, dict) else None
        if not isinstance(here, dict) or last in here:
            raise BadRequest(
                f"'metadata.{key}' and another metadata key contradict each other.",
                code="conflicting_fields",
                param=f"metadata.{key}",
                hint="Give either a whole block or its single fields.",
            )
        here[last] = _metadata_value(text)
    return out


def _metadata_value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return _without_nulls(value) if isinstance(value, dict) else value


def _without_nulls(value: Any) -> Any:
    """The stock client sends null for what was not given; absent and null mean the same in every field we have."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(below) for key, below in value.items() if below is not None}
    return [_without_nulls(below) for below in value] if isinstance(value, list) else value
