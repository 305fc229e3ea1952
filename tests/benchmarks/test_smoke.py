"""A real, tiny benchmark: every arm of the project on one small draw, with one layer of the bundled LM."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.quality.command import HELPER, _shown, main, seeds
from benchmarks.quality.results import path_of, write
from tests.benchmarks import pieces

ROOT = Path(__file__).parents[2]
TASK = """\
name: small
title: small
root: project
sources:
  - {file: examples/banking77/labeled.csv, role: train}
  - {file: examples/banking77/test.csv, role: test}
columns: {question: text, answer: label}
answers: [exchange_rate, passcode_forgotten, pending_transfer]
labeled: {per_class: 2}
unlabeled: 6
test: 10
validation: 3
answer: label
spec: {hyperparameters: {n_epochs: 1, lora: {r: 4, alpha: 8}}}
"""


@pytest.mark.slow
def test_every_arm_runs_once_and_shares_what_it_can(tmp_path):
    (tmp_path / "small.yaml").write_text(TASK)
    folders = ["--results", str(tmp_path / "results"), "--work", str(tmp_path / "work")]
    command = [sys.executable, "-m", "benchmarks", "quality", "--tasks", str(tmp_path / "small.yaml"), "--seeds", "0"]
    command += ["--lm", "bundled:1", "--threads", "1", "--device", "cpu", *folders]
    arms = "majority,knn,lr,lr_self_training,lr_self_training_weighted,labels_only_early,default,labels_only_matched,"
    arms += "no_in_context,no_in_weight,no_selection,gold,ratio_100"
    runs = [
        subprocess.run([*command, "--arms", arms], cwd=ROOT, capture_output=True, text=True, check=False, timeout=800)
        for _ in range(2)
    ]
    assert runs[0].returncode == 0, runs[0].stderr[-3000:]
    assert "13 done" in runs[0].stderr, runs[0].stderr[-3000:]
    assert "13 kept" in runs[1].stderr
    assert runs[1].stdout.startswith("# Does unlabeled data help?")
    assert (tmp_path / "results" / "TABLE.md").read_text() == runs[1].stdout
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results").glob("small/0/*.json")}
    assert len(records) == 13
    for name, record in records.items():
        assert "error" not in record, (name, record.get("error"))
        assert (record["n"], len(record["correct"]), len(record["validation"])) == (10, 10, 3)
    assert records["labels_only_matched"]["training"]["steps"] == records["default"]["rounds"][0]["training"]["steps"]
    warmups = {name: record["seconds"].get("round-1/warmup") for name, record in records.items() if record["kind"] == "job"}
    assert warmups["default"] is not None
    assert warmups["default"] == warmups["no_selection"] == warmups["ratio_100"]  # made once: to the same microsecond
    assert warmups["default"] != warmups["no_in_context"]


def test_without_data_the_command_says_what_it_needs_and_still_prints_the_table(tmp_path, capsys):
    write(path_of(tmp_path, "t0", 0, "default"), pieces.record("t0", 0, "default", "1110"))
    assert main(["--tasks", "fpb-100", "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "as --data PATH, or --quick for a subset" in printed.err
    assert "| the default | 75.0 (1 seed) | 75.0 |" in printed.out
    assert printed.out == (tmp_path / "TABLE.md").read_text()


def test_another_error_stands_alone(tmp_path, capsys):
    assert main(["--tasks", "nobody", "--results", str(tmp_path)]) == 2
    printed = capsys.readouterr()
    assert "No task is called nobody" in printed.err
    assert printed.out == ""


def test_a_record_tells_the_command_without_paths_and_helpers_tell_their_parents():
    argv = ["--data", "/home/somebody/sets", "--jobs", "2"]
    assert _shown(argv) == _shown([*argv, *HELPER]) == "python -m benchmarks quality --data sets --jobs 2"


def test_seeds_are_ranges_and_lists():
    assert seeds("0-2,7") == [0, 1, 2, 7]
    with pytest.raises(Exception, match="'a-b' is no seed or range of seeds such as 0-4"):
        seeds("a-b")


def test_the_command_names_what_can_be_measured():
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "fpb" in done.stderr
    assert "quality" in done.stderr
