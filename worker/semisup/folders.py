"""A folder with a language model or an adapter, looked at before anything in it is loaded: weights without code.

Weights are safetensors and nothing else: the other formats are pickles, and unpickling runs what they say. No configuration
may name code of its own (`auto_map`), whatever the loader would do with it. No torch here: a worker looks before it starts
anything.
"""

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.semisup.errors import LmNotFound

# By ending: what holds weights in another form than safetensors, and what is code.
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".msgpack", ".h5", ".ot", ".gguf")
CODE = (".py", ".pyc", ".so")
CONFIGURATIONS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json")
NAMES_CODE = ("auto_map", "custom_pipelines", "trust_remote_code")
PIECE_BYTES = 1 << 20
_HINT = "Give the operator's list a folder with safetensors weights and no code, as save_pretrained writes it."


def check_lm_folder(folder: Path, name: str) -> None:
    """`name` is what the job calls it. Raises LmNotFound: `model_not_allowed` for no LM, `model_unsafe` for an unsafe one."""
    if not (folder / "config.json").is_file():
        raise LmNotFound(f"{name} holds no language model (no config.json).", hint="Point the LM's entry at its local folder.")
    _check_files(folder, name)
    _check_configurations(folder, name)


def check_adapter_folder(folder: Path, name: str) -> None:
    """The same for an adapter, or for whole weights that a job has trained."""
    if not any((folder / file).is_file() for file in ("adapter_config.json", "config.json")):
        raise LmNotFound(f"{name} holds no adapter (no adapter_config.json).")
    _check_files(folder, name)
    _check_configurations(folder, name)
    if (folder / "adapter_config.json").is_file() and _json(folder / "adapter_config.json", name).get("auto_mapping"):
        raise _unsafe(name, "adapter_config.json names classes to import (auto_mapping)")


def weights_sha256(folder: Path, notes: Path | None = None) -> str:
    """Of all weights in order of their names, as an adapter's sha256 is. `notes`: a file that remembers it while sizes and
    times of the weights stay as they are, since tens of gigabytes take a while to read."""
    files = sorted(folder.glob("*.safetensors"))
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    known = _remembered(notes)
    entry = known.get(str(folder.resolve()))
    if isinstance(entry, dict) and entry.get("state") == state:
        return str(entry["sha256"])
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    found = digest.hexdigest()
    if notes:
        notes.parent.mkdir(parents=True, exist_ok=True)
        partial = notes.with_name(f"{notes.name}.{secrets.token_hex(4)}")  # runners that start at once note the same weights
        partial.write_text(json.dumps({**known, str(folder.resolve()): {"state": state, "sha256": found}}), encoding="utf-8")
        partial.replace(notes)
    return found


def revision(folder: Path) -> str | None:
    """The commit, where the folder is a snapshot in a hub's cache (`…/snapshots/<commit>`)."""
    return folder.name if folder.parent.name == "snapshots" else None


def _check_files(folder: Path, name: str) -> None:
    weights = 0
    for path in _walk(folder):
        ending = path.suffix.lower()
        weights += ending == ".safetensors"
        if ending in PICKLED:
            raise _unsafe(name, f"{path.name} may be a pickle, and loading it would run code; weights must be *.safetensors")
        if ending in CODE:
            raise _unsafe(name, f"{path.name} is code")
    if not weights:
        raise _unsafe(name, "there are no *.safetensors weights")


def _check_configurations(folder: Path, name: str) -> None:
    for file in CONFIGURATIONS:
        if (folder / file).is_file() and (found := next(_code_named(_json(folder / file, name)), None)):
            raise _unsafe(name, f"{file} wants code of its own ({found})")


def _code_named(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (key for key in NAMES_CODE if value.get(key))
        for inner in value.values():
            yield from _code_named(inner)


def _walk(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise _unsafe(name, f"{path.name} is not JSON") from None
    return value if isinstance(value, dict) else {}


def _remembered(notes: Path | None) -> dict[str, Any]:
    try:
        value = json.loads(notes.read_text(encoding="utf-8")) if notes else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _unsafe(name: str, why: str) -> LmNotFound:
    return LmNotFound(f"The folder of {name} is not loaded: {why}.", code="model_unsafe", hint=_HINT)
