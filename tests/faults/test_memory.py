"""Out of memory as the machine has it: an allocation that the system refuses, in words that torch chooses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to the memory it may address (RLIMIT_AS)")
def test_a_training_in_a_process_with_too_little_memory_halves_its_micro_batch_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.small_memory", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert told["steps"] == 1
    assert 0 < told["loss"] < 20
    assert told["notes"], "the limit was no limit"
    assert told["notes"][0] == "training: a micro-batch of 64 did not fit into memory at step 1; 32 from here on."
