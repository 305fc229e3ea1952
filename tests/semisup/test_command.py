"""`python -m worker.semisup`: a whole job from files to a folder of results, without any service."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.semisup.builders import TINY_JOB, examples
from worker.semisup import __main__ as command

SPEC = {**TINY_JOB, "warmup": {"n_epochs": 2}, "evolve": {"n_epochs": 1}, "evaluation": {"with_neighbours": False}}


@pytest.fixture
def run(llama, cache, tmp_path, monkeypatch) -> Callable[..., int]:
    rows = [{"text": e.query.question, "label": e.answer} for e in examples("l", 12)]
    (tmp_path / "labeled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "unlabeled.jsonl").write_text("".join(json.dumps({"text": f"thing {i}"}) + "\n" for i in range(6)))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr("worker.semisup.lm.has_bf16", lambda _device: False)  # accelerate has one precision a process

    def go(spec: dict, *more: str) -> int:
        (tmp_path / "spec.yaml").write_text(json.dumps(spec))
        files = [str(tmp_path / name) for name in ("spec.yaml", "labeled.jsonl", "unlabeled.jsonl", "out")]
        given = ["semisup", *files, "--lm", llama, "--lm-name", "tiny", "--cache", str(cache), "--threads", "1", *more]
        monkeypatch.setattr(sys, "argv", given)
        return command.main()

    return go


def test_files_in_results_out_and_nothing_is_left_behind(run, tmp_path, capsys):
    assert run(SPEC) == 0
    results = tmp_path / "out" / "results"
    assert capsys.readouterr().out == (results / "report.md").read_text()
    report = json.loads((results / "report.json").read_text())
    assert report["task"]["unlabeled"] == 6
    assert (results / "adapter" / "adapter_config.json").is_file()
    assert list((tmp_path / "tmp").iterdir()) == [], "each training had its weights there"
    assert tempfile.gettempdir() == str(tmp_path / "tmp")

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "stages").rglob("manifest.json")}
    assert run(SPEC) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}, "the same command again computes nothing"


def test_another_spec_in_the_same_folder_is_refused(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_bytes(b"{}")
    assert run(SPEC) == 2
    assert "holds another run" in capsys.readouterr().err


def test_what_is_wrong_is_named(run, tmp_path: Path, capsys):
    assert run({**SPEC, "warmpu": {}}) == 2
    assert "warmpu" in capsys.readouterr().err
    assert run(SPEC, "--test", str(tmp_path / "nowhere.csv")) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
