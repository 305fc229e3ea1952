"""Numbers that tests are the measurement of: how many cases ran, and how many of them failed."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# What a line of the scorecard counts: pytest's own arguments, below tests/.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "resume": (
        "semisup/test_checkpoint.py::test_a_training_killed_after_any_step_ends_with_the_same_bytes",
        "worker/test_crash_points.py::test_a_crash_changes_no_result",
    ),
    "bad_input": ("api/test_bad_input.py", "api/test_matrix.py", "api/test_fuzz.py"),
    "banned_calls": ("house/test_banned.py",),
    "seeded_bugs": (
        "chaos/test_nemesis.py::test_a_bug_planted_in_real_processes_is_caught",
        "models/test_transition.py::test_a_planted_bug_is_found",
    ),
}


def run_group(name: str) -> dict[str, Any]:
    """Runs a group's tests; those whose file is not there are named in `absent`."""
    there = [f"tests/{test}" for test in GROUPS[name] if (ROOT / "tests" / test.partition("::")[0]).exists()]
    absent = [test for test in GROUPS[name] if f"tests/{test}" not in there]
    if not there:
        return {"cases": 0, "failed": 0, "absent": absent}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *there, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        return counted(report) | {"absent": absent}


def counted(report: Path) -> dict[str, int]:
    """Cases and failures of a junit report of pytest's. A skipped case is none."""
    root = ElementTree.parse(report).getroot()
    suites = list(root.iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    return {"cases": total["tests"] - total["skipped"], "failed": total["failures"] + total["errors"]}
