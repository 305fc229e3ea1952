"""A lab says which bytes its weights are, and loads nothing that may hold code."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from worker.semisup.data import Adapter
from worker.semisup.errors import LmNotFound
from worker.semisup.lm import Lab


def test_the_environment_names_the_bytes_of_the_weights(lab: Lab, llama: str) -> None:
    weights = Path(llama, "model.safetensors").read_bytes()
    assert lab.environment["base_sha256"] == hashlib.sha256(weights).hexdigest()
    assert "base_revision" not in lab.environment  # the folder is no snapshot of a hub
    assert llama not in json.dumps(lab.environment)


def test_a_base_lm_with_a_pickle_beside_it_is_refused_before_it_is_read(llama: str, cache: Path, tmp_path: Path) -> None:
    unsafe = tmp_path / "lm"
    shutil.copytree(llama, unsafe)
    (unsafe / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(LmNotFound) as caught:
        Lab(str(unsafe), name="mine", cache=cache, device="cpu")
    assert caught.value.code == "model_unsafe"
    assert str(tmp_path) not in caught.value.message


def test_an_adapter_with_a_pickle_is_refused_before_it_is_read(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(LmNotFound, match="pickle"), lab.lm(Adapter(str(tmp_path), "lora", "x", 0, 0, 0.0)):
        pass
