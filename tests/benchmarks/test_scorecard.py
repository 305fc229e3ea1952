"""The scorecard says what was measured, when, and what was not; and counts pytest's cases as they are."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reliability import command, scorecard
from benchmarks.reliability.faults import WORDS, Result
from benchmarks.reliability.tests import GROUPS, ROOT, counted

FINE, LOST = Result(5, 5, 0), Result(5, 1, 0, "no error anywhere")
CHAOS = {"date": "2026-11-20", "minutes": 10, "faults_injected": 200, "violations": [], "recoveries": 40}
CHAOS |= {
    "jobs": {"succeeded": 150, "cancelled": 9},
    "jobs_meant_to_fail": 0,
    "recovery_seconds_median": 0.1,
    "recovery_seconds_p99": 4.2,
}


def faults(ours: Result = FINE) -> dict[str, Any]:
    row = {"fault": "flushall", "words": WORDS["flushall"], "ours": asdict(ours), "naive": asdict(LOST)}
    return {"date": "2026-11-20", "celery": "5.7.0", "rows": [row]}


def promptness(*seconds: float) -> dict[str, Any]:
    rows = [{"what": "it is over", "bound": 10.0, "seconds": seconds}, {"what": "it is on", "bound": None, "seconds": [99.0]}]
    return {"date": "2026-11-20", "times": len(seconds), "rows": rows}


def test_seconds_stand_beside_what_is_promised() -> None:
    found = {"promptness": promptness(1.0, 2.0, 9.9)}
    lines = scorecard.table(found)
    assert "| it is over, median / worst | 2.0 s / 9.9 s (3, promised: 10 s) | - | 2026-11-20 |" in lines
    assert "| it is on, median / worst | 99.0 s / 99.0 s (1) | - | 2026-11-20 |" in lines
    assert scorecard.clean(found)


def test_what_was_not_measured_is_said() -> None:
    lines = scorecard.table({})
    assert len([line for line in lines if scorecard.NOT_MEASURED in line]) == 7
    assert scorecard.clean({})
    absent = {"resume": {"cases": 0, "failed": 0, "absent": ["worker/test_x.py"], "date": "2026-11-20"}}
    assert "not measured: there is no worker/test_x.py" in "\n".join(scorecard.table(absent))


def test_ours_stands_beside_the_plain_task() -> None:
    lines = scorecard.table(
        {"faults": faults(), "chaos": CHAOS, "bad_input": {"cases": 90, "failed": 0, "absent": [], "date": "d"}}
    )
    assert "| simple faults that lose or double nothing | 1 of 1 | 0 of 1 | 2026-11-20 |" in lines
    assert "| random faults injected / violations | 200 / 0 in 10 min | - | 2026-11-20 |" in lines
    assert "| a dead runner is noticed, median / p99 | 0.1 s / 4.2 s (40) | - | 2026-11-20 |" in lines
    assert any("90 of 90" in line for line in lines)
    assert lines[-1] == f"| {WORDS['flushall']} | 5 of 5 ended | 1 of 5 ended, no error anywhere |"


@pytest.mark.parametrize(
    "found",
    [
        {"faults": faults(Result(1, 1, 1))},
        {"faults": faults(Result(2, 1, 0))},
        {"chaos": {**CHAOS, "violations": ["P2 ftjob-1: …"]}},
        {"bad_input": {"cases": 9, "failed": 1, "absent": [], "date": "d"}},
        {"promptness": promptness(3.0, 10.1)},
    ],
)
def test_a_broken_promise_of_ours_is_a_failure(found: dict[str, Any]) -> None:
    assert not scorecard.clean(found)


def test_cases_are_counted_without_those_that_were_skipped(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text('<testsuites><testsuite tests="7" failures="1" errors="1" skipped="2"/></testsuites>')
    assert counted(report) == {"cases": 5, "failed": 2}


def test_the_tests_a_line_counts_have_names_that_exist() -> None:
    for name in (test for group in GROUPS.values() for test in group):
        path, _, function = name.partition("::")
        file = ROOT / "tests" / path
        assert not file.exists() or not function or f"def {function}(" in file.read_text(), name


def test_the_table_is_printed_from_what_earlier_runs_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.save(tmp_path, "faults", {name: value for name, value in faults().items() if name != "date"})
    assert command.main(["--table", "--results", str(tmp_path)]) == 0
    assert "1 of 1" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["--parts", "nonsense"])
    assert "there is no part 'nonsense'; there are faults, promptness, resume" in capsys.readouterr().err
