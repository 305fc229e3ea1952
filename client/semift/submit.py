"""From `job.yaml` and flags to a job: files are uploaded, what the server cannot use is told before anything is queued."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from semift import wire
from semift.client import Client
from semift.errors import BadInput

FILES = ("labeled", "unlabeled", "test")
EARLIER = ("from_job", "fork")  # an earlier job, which may bring model and files
KEYS = (*FILES, *EARLIER, "model", "suffix", "seed", "metadata", "dataset", "semi_supervised")


class FileRefused(BadInput):
    """A file the server read and found wanting; `validation` has every finding."""

    def __init__(self, path: Path, validation: wire.Validation) -> None:
        count = sum(validation.get("error_counts", {}).values())
        super().__init__(f"{path} cannot be used: {count} errors.", hint="Mend the rows named above and submit again.")
        self.path, self.validation = path, validation


def read_order(job_file: Path | None, flags: Mapping[str, str | None], sets: Sequence[str]) -> dict[str, Any]:
    """The order: `job.yaml` below, flags and `--set a.b=c` (a path inside semi_supervised) on top.

    Paths in the file are taken from the file's folder. Raises BadInput naming the key.
    """
    order = _from_yaml(job_file) if job_file else {}
    order.update({key: value for key, value in flags.items() if value is not None})
    spec = order.setdefault("semi_supervised", {})
    for item in sets:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise BadInput(f"--set {item!r} is not of the form a.b=c.", hint="For example --set rounds=2.")
        _put(spec, name, _yaml(value, f"--set {item}"))
    for key in EARLIER:
        if order.get(key) is not None:
            value = order.pop(key)
            spec[key] = {"job": value} if key == "fork" and isinstance(value, str) else value
    if not order.get("labeled") and not _earlier(spec):
        raise BadInput("No labeled file is given.", hint="Use --labeled FILE, or `labeled:` in job.yaml.")
    return order


def _earlier(spec: Mapping[str, Any]) -> bool:
    return any(spec.get(key) is not None for key in EARLIER)


def _from_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    order = _yaml(text, str(path)) or {}
    if not isinstance(order, dict):
        raise BadInput(f"{path} does not hold a mapping.", hint=f"Its keys are {', '.join(KEYS)}.")
    for key in order:
        if key not in KEYS:
            close = difflib.get_close_matches(str(key), KEYS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Its keys are {', '.join(KEYS)}."
            raise BadInput(f"{path} has an unknown key {key!r}.", hint=hint)
    for key in ("semi_supervised", "dataset", "metadata"):
        if not isinstance(order.get(key, {}), dict):
            raise BadInput(f"{key} in {path} does not hold a mapping.")
    for key in FILES:
        if isinstance(order.get(key), str) and not is_file_id(order[key]):
            order[key] = str(path.parent / Path(order[key]).expanduser())
    return order


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{where} is not YAML: {' '.join(str(error).split())}") from None


def _put(spec: dict[str, Any], name: str, value: Any) -> None:
    *way, last = name.split(".")
    for step in way:
        spec = spec.setdefault(step, {})
        if not isinstance(spec, dict):
            raise BadInput(f"--set {name}: {step!r} is a value, not a block.")
    spec[last] = value


def is_file_id(value: str) -> bool:
    return value.startswith("file-") and not Path(value).exists()


def submit(client: Client, order: Mapping[str, Any]) -> wire.Job:
    """Uploads what is a path, uses ids as they are, creates the job. Raises FileRefused for the first file that has errors."""
    ids = {key: upload_checked(client, key, str(order[key]), order.get("dataset") or {}) for key in FILES if order.get(key)}
    spec = {**order["semi_supervised"], **{f"{key}_file": ids[key] for key in FILES[1:] if key in ids}}
    model = order.get("model") or (None if _earlier(spec) else only_model(client))
    body = {
        **({"model": model} if model else {}),
        **({"training_file": ids["labeled"]} if "labeled" in ids else {}),
        **({"semi_supervised": spec} if _earlier(spec) else {"method": {"type": "semi_supervised", "semi_supervised": spec}}),
        **{key: order[key] for key in ("suffix", "seed", "metadata") if order.get(key) is not None},
    }
    return client.create_job(body)


def upload_checked(client: Client, key: str, value: str, dataset: Mapping[str, Any]) -> str:
    if is_file_id(value):
        return value
    path = existing(value)
    role = "unlabeled" if key == "unlabeled" else "labeled"
    file = client.wait_read(client.upload(path, dataset={**dataset, "role": role}))
    if file["status"] == "error":
        validation = client.validation(file["id"])
        client.delete_file(file["id"])
        raise FileRefused(path, validation)
    return file["id"]


def existing(value: str) -> Path:
    path = Path(value).expanduser()
    if not path.is_file():
        raise BadInput(f"There is no file {value}.", hint="Give a path, or the id of an uploaded file (file-…).")
    return path


def only_model(client: Client) -> str:
    """The server's base language model, where it has just one."""
    base = [model["id"] for model in client.models() if not model.get("parent")]
    if len(base) != 1:
        raise BadInput("No model is given.", hint=f"Use --model; the server has {', '.join(base) or 'none'}.")
    return base[0]
