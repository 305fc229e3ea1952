"""Every command against a real server on SQLite: what it prints, what it leaves there, and its exit code."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from semift.app import EPILOG
from semift.cli import app
from typer.testing import CliRunner, Result

from tests.api.rows import WEIGHTS, fail, labeled, run_to_the_end, unlabeled
from tests.client.conftest import Semift
from tests.conftest import Configure

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "l.jsonl").write_bytes(labeled())
    (tmp_path / "u.jsonl").write_bytes(unlabeled())
    (tmp_path / "bad.csv").write_text("text,label\nok,a\nalone\n ,b\n")
    return tmp_path


def data(result: Result) -> Any:
    return json.loads(result.stdout)


def submitted(semift: Semift, folder: Path, *more: str) -> str:
    result = semift("submit", "--labeled", folder / "l.jsonl", "--unlabeled", folder / "u.jsonl", *more)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def files_at(server: str) -> list[dict[str, Any]]:
    return httpx.get(f"{server}/v1/files", trust_env=False).json()["data"]  # type: ignore[no-any-return]


def test_validate_shows_every_finding_and_leaves_nothing(semift: Semift, server: str, folder: Path) -> None:
    result = semift("validate", folder / "bad.csv")
    assert result.exit_code == 2
    for words in ("failed", "3 rows", "wrong_column_count", "Line 3", "empty_text", "Line 4", "input = text", "Fill it"):
        assert words in result.stdout
    report = data(semift("validate", folder / "bad.csv", "--json"))
    assert report["error_counts"] == {"wrong_column_count": 1, "empty_text": 1}
    good = semift("validate", folder / "l.jsonl")
    assert (good.exit_code, "12 labeled" in good.stdout) == (0, True)
    assert semift("validate", folder / "u.jsonl", "--role", "labeled").exit_code == 2
    assert files_at(server) == []


def test_upload_prints_the_id(semift: Semift, server: str, folder: Path) -> None:
    result = semift("upload", folder / "l.jsonl")
    assert (result.exit_code, result.stdout.strip()) == (0, files_at(server)[0]["id"])
    assert data(semift("upload", folder / "u.jsonl", "--json"))["contents"]["unlabeled"] == 12
    bad = semift("upload", folder / "bad.csv")
    assert (bad.exit_code, bad.stdout.startswith("file-")) == (2, True)
    assert semift("upload", folder / "none.csv").exit_code == 2
    assert "unknown_choice" in semift("upload", folder / "l.jsonl", "--purpose", "fun").stderr


def test_a_file_read_after_the_upload_answered_is_waited_for(semift: Semift, configure: Configure, folder: Path) -> None:
    configure(inline_validation_bytes=0)
    assert semift("validate", folder / "l.jsonl").exit_code == 0
    assert semift("validate", folder / "bad.csv").exit_code == 2
    assert data(semift("upload", folder / "l.jsonl", "--json"))["status"] == "processed"


def test_submit_sends_files_model_and_spec(semift: Semift, server: str, folder: Path) -> None:
    (folder / "job.yaml").write_text("labeled: l.jsonl\nunlabeled: u.jsonl\nsuffix: nice\nsemi_supervised: {rounds: 1}\n")
    job = data(semift("submit", folder / "job.yaml", "--set", "rounds=2", "--set", "hyperparameters.n_epochs=1", "--json"))
    assert (job["model"], job["suffix"], job["spec"]["rounds"], job["spec"]["hyperparameters"]["n_epochs"]) == (
        "semift-small",
        "nice",
        2,
        1,
    )
    roles = {file["id"]: file["dataset"]["role"] for file in files_at(server)}
    assert roles == {job["training_file"]: "labeled", job["unlabeled_file"]: "unlabeled"}
    again = data(semift("submit", "--labeled", job["training_file"], "--unlabeled", job["unlabeled_file"], "--json"))
    assert again["training_file"] == job["training_file"]
    assert len(files_at(server)) == 2


def test_submit_refuses_before_anything_is_queued(semift: Semift, server: str, folder: Path) -> None:
    bad = semift("submit", "--labeled", folder / "bad.csv")
    assert bad.exit_code == 2
    assert "wrong_column_count" in bad.stderr
    assert "2 errors" in bad.stderr
    unknown = semift("submit", "--labeled", folder / "l.jsonl", "--set", "propagation.kk=3")
    assert unknown.exit_code == 2
    assert "method.semi_supervised.propagation.kk" in unknown.stderr
    assert "unknown_field" in unknown.stderr
    assert data(semift("submit", "--labeled", folder / "bad.csv", "--json"))["error"]["message"].endswith("2 errors.")
    assert semift("submit").exit_code == 2
    assert data(semift("jobs", "--json"))["data"] == []


def test_a_finished_job_s_samples_and_artifacts(semift: Semift, folder: Path) -> None:
    job_id = submitted(semift, folder, "--set", "rounds=2")
    run_to_the_end()
    watched = semift("watch", job_id)
    assert watched.exit_code == 0
    assert "succeeded" in watched.stdout
    assert f"semift artifacts {job_id}" in watched.stdout

    shown = semift("samples", job_id, "--round", "2", "--verdict", "selected", "--order", "mean_nll")
    assert shown.exit_code == 0
    assert "u-000010" in shown.stdout
    assert "rejected" not in shown.stdout
    picked = data(semift("samples", job_id, "--limit", "200", "--max-mean-nll", "9.5", "--json"))["data"]
    assert len(picked) == 2 * 7

    assert "adapter/adapter_model.safetensors" in semift("artifacts", job_id).stdout
    assert semift("artifacts", job_id, "--out", folder / "results").exit_code == 0
    assert (folder / "results" / "adapter" / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert sorted(path.name for path in (folder / "results").iterdir()) == ["adapter", "report.json", "report.md"]


def test_exit_codes_of_failed_and_cancelled_jobs(semift: Semift, folder: Path) -> None:
    failing = submitted(semift, folder)
    fail()
    failed = semift("watch", failing)
    assert failed.exit_code == 1
    assert "out_of_memory" in failed.stdout
    second = submitted(semift, folder)
    assert semift("cancel", second).stdout.strip() == f"{second} cancelled"
    assert semift("watch", second, "--json").exit_code == 3
    assert semift("cancel", failing).exit_code == 2
    listed = semift("jobs")
    assert listed.stdout.index(second) < listed.stdout.index(failing)
    assert [job["status"] for job in data(semift("jobs", "--limit", "1", "--json"))["data"]] == ["cancelled"]


def test_an_unknown_job_is_bad_input_with_the_server_s_words(semift: Semift) -> None:
    result = semift("watch", "ftjob-nope")
    assert result.exit_code == 2
    assert "job_not_found" in result.stderr
    assert data(semift("samples", "ftjob-nope", "--json"))["error"]["code"] == "job_not_found"


def test_doctor_checks_the_server_s_parts(semift: Semift) -> None:
    result = semift("doctor")
    assert result.exit_code == 0, result.output
    for name in ("python", "disk here", "server", "database", "migrations", "store", "models", "semift-small"):
        assert name in result.stdout
    assert all(check["ok"] for check in data(semift("doctor", "--json"))["data"])


def test_a_server_that_is_away_is_exit_code_4(tmp_path: Path) -> None:
    away = ("--url", "http://127.0.0.1:1")
    for arguments in (["jobs"], ["watch", "ftjob-1"], ["doctor"]):
        if arguments[0] != "watch":  # watching is patient (test_watch.py)
            result = CliRunner().invoke(app, [*arguments, *away])
            assert result.exit_code == 4
            assert "semift up" in result.output
    assert json.loads(CliRunner().invoke(app, ["jobs", "--json", *away]).stdout)["error"]["code"] == "Unreachable"


def test_help_documents_every_command_and_exit_code() -> None:
    told = CliRunner().invoke(app, ["--help"]).stdout
    for name in ("up", "validate", "upload", "submit", "watch", "jobs", "cancel", "samples", "artifacts", "doctor"):
        assert f"\n  {name} " in told
        assert "Exit codes: 0 ok" in CliRunner().invoke(app, [name, "--help"]).stdout
    assert all(
        code in EPILOG for code in ("0 ok", "1 the job failed", "2 wrong", "3 the job was", "4 the server", "130 ctrl-C")
    )
    assert CliRunner().invoke(app, ["jobs", "--no-such"]).exit_code == 2


def test_up_starts_the_checkout_s_server_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r}); from semift.cli import main; main()"
    arguments = ["up", "--port", "0", "--data-dir", str(tmp_path / "up")]
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT / "docs", stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if " URL " in line).split()[1]
        assert CliRunner().invoke(app, ["doctor", "--url", url]).exit_code == 0
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "up" / "semift.db").is_file()
