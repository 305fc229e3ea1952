"""Where the collaborators a spec names are found: the order's `outside` (worker/semisup/outside.py has its shape)."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.blobs import blobs
from models.db import transaction
from models.queries.adapters import adapter_files
from models.settings import engine_key, settings
from models.tables import File
from worker.semisup.folders import revision, weights_sha256

COLLABORATORS = "propagation.collaborators"
WEIGHTS = "weights.json"
SHA256_DIGITS = 64


class NotHere(Exception):
    """Something the job names by name, and this worker has not. `param` is the field that names it."""

    def __init__(self, message: str, *, code: str, param: str) -> None:
        super().__init__(message)
        self.code, self.param = code, param


class LmGone(NotHere):
    """A language model that is no longer among those the operator offers."""

    def __init__(self, name: str, param: str = "model") -> None:
        known = ", ".join(sorted(settings().base_lms))
        message = f"This worker has no language model {name!r}; it has {known}."
        super().__init__(message, code="model_not_allowed", param=param)


def places(job_id: str, spec: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Adapters are fetched into `scratch`; an engine's key goes nowhere but into the value returned.

    Raises BlobError and NotHere.
    """
    given = spec.get("propagation", {}).get("collaborators", ())
    collaborators = () if isinstance(given, str) else given  # "auto" names nothing outside
    named = {kind: sorted({c[kind] for c in collaborators if c.get(kind)}) for kind in ("lm", "adapter", "engine")}
    adapters = {name: _adapter(job_id, name, scratch) for name in named["adapter"]}
    lms = {*named["lm"], *(adapter["base"] for adapter in adapters.values())}
    return {
        "lms": {name: lm_place(name, COLLABORATORS) for name in sorted(lms)},
        "adapters": adapters,
        "engines": {name: _engine(name) for name in named["engine"]},
    }


def lm_place(name: str, param: str = "model") -> str:
    """Where the LM of this name is. Raises NotHere when nowhere, or when it is another than the operator said."""
    here = settings()
    if name not in here.base_lms:
        raise LmGone(name, param)
    place, wanted = here.base_lms[name], here.base_lm_revisions.get(name)
    if wanted:
        folder = Path(place)
        found = weights_sha256(folder, lm_cache() / WEIGHTS) if len(wanted) == SHA256_DIGITS else revision(folder)
        if found != wanted:
            message = f"This worker's folder of {name!r} is at revision {found}; the operator's list wants {wanted}."
            raise NotHere(message, code="model_unsafe", param=param)
    return place


def lm_cache() -> Path:
    """Where a runner builds the bundled LM, and what is known of weights is noted (worker/semisup/lm.py)."""
    return settings().data_dir.resolve() / "lms"


def _adapter(job_id: str, name: str, scratch: Path) -> dict[str, Any]:
    with transaction(read_only=True) as session:
        found = adapter_files(session, job_id, name)
    if found is None:
        raise NotHere(f"There is no fine-tuned model {name!r} any more.", code="model_not_found", param=COLLABORATORS)
    folder = scratch / "adapters" / hashlib.sha256(name.encode()).hexdigest()[:16]
    for path, sha256 in found.files.items():
        blobs().fetch(sha256, folder / path)
    weights = "".join(sha256 for path, sha256 in sorted(found.files.items()) if path.endswith(".safetensors"))
    kind = "lora" if "adapter_config.json" in found.files else "full"
    return {
        "base": found.base_lm,
        "path": str(folder),
        "kind": kind,
        "sha256": hashlib.sha256(weights.encode()).hexdigest(),
        "learned": [
            fetched(file, folder.with_name(f"{folder.name}-learned") / str(n)) for n, file in enumerate(found.trained_on)
        ],
    }


def fetched(file: File, path: Path) -> dict[str, Any]:
    """An upload's bytes brought to `path`, and what a reader has to know of it. Raises BlobError."""
    blobs().fetch(file.sha256, path)
    return {"path": str(path), "filename": file.filename, "options": file.options}


def _engine(name: str) -> dict[str, Any]:
    known = settings().engines
    if name not in known:
        here = ", ".join(sorted(known)) or "none"
        raise NotHere(f"This worker has no engine {name!r}; it has {here}.", code="unknown_engine", param=COLLABORATORS)
    engine = known[name]
    try:
        key = engine_key(engine)
    except KeyError as missing:
        message = f"The engine {name!r} wants its key in {missing}, which this worker's environment does not set."
        raise NotHere(message, code="engine_misconfigured", param=COLLABORATORS) from None
    return {**engine.model_dump(exclude={"api_key_env"}), "api_key": key}
