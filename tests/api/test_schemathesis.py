"""Schemathesis over the OpenAPI document: data that fits it, data that does not, and calls in a row along its links.

A few examples of each here, the same ones every time; `make fuzz` takes many, and new ones.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from models.db import transaction
from models.tables import Job
from tests.api.rows import labeled, run_to_the_end
from tests.api.sending import JOBS
from tests.conftest import Configure
from tests.keys import AUTH, KEY
from tests.serving import serving

ROOT = Path(__file__).parents[2]
EXAMPLES = os.environ.get("SEMIFT_TEST_FUZZ_EXAMPLES")  # of each operation; set by `make fuzz`
LIMIT_SECONDS = 3600 if EXAMPLES else 900  # at most: a minute or two, where nothing else runs
LEAST_LINKS = 10  # of the document's own and those Schemathesis finds itself


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_SECONDS + 60)
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_the_service_keeps_to_its_document(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, configure: Configure
) -> None:
    if kind == "sqlite" and not EXAMPLES:
        pytest.skip("PostgreSQL is the stricter one; make fuzz runs both")
    request.getfixturevalue(kind)
    configure(requests_per_minute=0, tenant_open_jobs=0, tenant_keys=10**6)
    alone = ["--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES or "4"]
    in_a_row = ["--phases", "stateful", "--max-examples", EXAMPLES or "120"]
    same = [] if EXAMPLES else ["--generation-deterministic"]
    with serving() as url:
        file = httpx.post(
            f"{url}/v1/files",
            files={"file": ("l.jsonl", labeled())},
            data={"purpose": "fine-tune"},
            headers=AUTH,
            timeout=120,
        )
        order = {"model": "semift-small", "training_file": file.json()["id"]}
        for _ in range(2):
            assert httpx.post(f"{url}{JOBS}", json=order, headers=AUTH, timeout=120).status_code == 200
        run_to_the_end()  # so that lists have ids, which the fuzzer takes up
        command = [
            str(Path(sys.executable).parent / "schemathesis"),
            "--config-file",
            str(ROOT / "tests/api/schemathesis.toml"),
        ]
        # All checks are on where nobody says which; "--checks all" would switch on those the file switches off as well.
        run = ["run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {KEY}", "--continue-on-failure"]
        run += ["--request-timeout", "120", "--suppress-health-check", "too_slow"]  # which say how busy this machine is
        end = time.monotonic() + LIMIT_SECONDS
        for phases in (alone, in_a_row):
            done = subprocess.run(
                [*command, *run, *phases, *same, "--no-color"],
                cwd=tmp_path, capture_output=True, text=True, timeout=end - time.monotonic(),
            )  # fmt: skip
            assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
    links = re.search(r"API Links: +(\d+) covered", done.stdout)
    assert links, done.stdout[-5000:]
    assert int(links[1]) >= LEAST_LINKS, "calls in a row are worth something only if what one makes is what the next one takes"
    with transaction(read_only=True) as session:
        assert session.query(Job).count() >= 2
