"""Whether a job's training can fit the workers' devices, from the base LM's files alone: told before queueing, not by a crash.

A floor, not a forecast: weights, gradients and optimizer state; activations come on top and depend on batch and length.
"""

import json
import struct
from math import prod
from pathlib import Path

from api.errors import BadRequest
from models.settings import settings
from worker.semisup.spec import JobSpec

# Bytes a parameter: full training holds float32 weights, gradients and two moments; LoRA a frozen bfloat16 base.
BYTES = {"full": 16, "lora": 2}
LORA_SHARE = 1.1  # adapters and their optimizer state, generously
MAX_HEADER = 100 << 20  # as the safetensors format limits it


def check_memory(model: str, spec: JobSpec) -> None:
    """Raises BadRequest `will_not_fit`. Nothing is checked where the operator has not said how large the devices are."""
    limit, folder = settings().device_memory_bytes, Path(settings().base_lms[model])
    if not limit or not folder.is_dir():
        return
    parameters = count_parameters(folder)
    need = {kind: parameters * size * (LORA_SHARE if kind == "lora" else 1.0) for kind, size in BYTES.items()}
    trainable = spec.hyperparameters.trainable
    if need[trainable] > limit:
        fits = trainable == "full" and need["lora"] <= limit
        raise BadRequest(
            f"Training {parameters / 1e9:.2f} billion parameters ({trainable}) needs at least {need[trainable] / 1e9:.1f} GB; "
            f"a worker's device has {limit / 1e9:.1f} GB.",
            code="will_not_fit",
            param="method.semi_supervised.hyperparameters.trainable",
            hint=f"Set trainable to 'lora': at least {need['lora'] / 1e9:.1f} GB." if fits else "Choose a smaller model.",
        )


def count_parameters(folder: Path) -> int:
    """Parameters in the folder's safetensors files, from their headers: no weight is read."""
    return sum(_count(path) for path in sorted(folder.glob("*.safetensors")))


def _count(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(min(length, MAX_HEADER)))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
