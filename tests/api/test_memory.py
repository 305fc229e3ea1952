"""J8: what cannot fit the workers' devices is refused before it is queued, with an estimate and a spec that fits."""

import json
import struct
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.fine_tuning.memory import count_parameters
from api.main import create_app
from models.db import transaction
from models.tables import Job
from tests.api.sending import JOBS, new_world, put_in
from tests.keys import AUTH

MILLION = 1_000_000


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """The files of an LM of ten million parameters, as far as their headers: the rest is a hole."""
    folder = tmp_path / "big"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = json.dumps({"w": {"dtype": "BF16", "shape": [10, MILLION], "data_offsets": [0, 20 * MILLION]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(20 * MILLION)
    return folder


def test_parameters_are_counted_from_the_headers(big: Path) -> None:
    assert count_parameters(big) == 10 * MILLION


@pytest.mark.parametrize(
    ("memory", "trainable", "hint"),
    [
        (100 * MILLION, "full", "Set trainable to 'lora': at least 0.0 GB."),
        (10 * MILLION, "full", "Choose a smaller model."),
        (10 * MILLION, "lora", "Choose a smaller model."),
        (100 * MILLION, "lora", None),
        (0, "full", None),
    ],
    ids=["lora fits", "nothing fits", "not even lora", "fits", "no limit set"],
)
def test_a_job_that_cannot_fit_is_refused_with_what_would(sqlite, configure, big, memory, trainable, hint) -> None:
    configure(base_lms=json.dumps({"semift-small": str(big)}), device_memory_bytes=memory)
    with TestClient(create_app(), headers=AUTH) as app:
        world = new_world(app)
        body = put_in(world, "hyperparameters", {"trainable": trainable})
        answer = app.post(JOBS, json=body)
        with transaction(read_only=True) as session:
            jobs = session.query(Job).count()
    if hint is None:
        assert answer.status_code == 200
        return
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["hint"]) == (400, "will_not_fit", hint)
    assert error["param"] == "method.semi_supervised.hyperparameters.trainable"
    assert jobs == 0
