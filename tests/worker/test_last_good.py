"""A training whose numbers went wrong fails by name of stage and step; what was good before it can be downloaded."""

from pathlib import Path

import pytest

from models.blobs import blobs
from models.tables import Artifact
from tests.rows import add_job, get_job
from tests.worker.fake_runner import spec_for
from tests.worker.watching import events, rows
from tests.worker.working import work

FILE = "last-good-adapter/adapter_model.safetensors"


@pytest.mark.parametrize(("where", "kept"), [("evolve", [FILE]), ("warmup", [])])
def test_the_newest_good_adapter_of_a_failed_job_is_an_artefact(
    database: str, tmp_path: Path, where: str, kept: list[str]
) -> None:
    job = add_job(spec=spec_for(tmp_path, fault=f"no number in {where}"))
    work()
    row = get_job(job)
    assert row.status == "failed"
    assert row.error
    assert row.error["code"] == "diverged_nan"
    assert f"round-1/{where} was not finite at step 4" in row.error["message"]
    found = rows(Artifact, job)
    assert [artifact.path for artifact in found] == kept
    for artifact in found:
        with blobs().open(artifact.sha256) as file:
            assert file.read() == b"warmup [1, 2, 3, 4, 5]"
        assert any("last good adapter, 5 steps" in message for message in events(job))
