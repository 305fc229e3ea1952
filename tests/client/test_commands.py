"""Every command against a real server on SQLite: what it prints, what it leaves there, and its exit code."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from semift.app import BAD_INPUT, EPILOG
from semift.cli import app
from typer.testing import CliRunner, Result

from tests.api.rows import WEIGHTS, fail, labeled, run_to_the_end, unlabeled
from tests.client.conftest import Semift
from tests.conftest import Configure
from tests.keys import AUTH

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
    return httpx.get(f"{server}/v1/files", headers=AUTH, trust_env=False, timeout=120).json()["data"]  # type: ignore[no-any-return]


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


def test_submit_builds_on_an_earlier_job(semift: Semift, server: str, folder: Path) -> None:
    first = submitted(semift, folder)
    run_to_the_end()
    fork = data(semift("submit", "--set", f"fork.job={first}", "--set", "selection.strategy=all", "--json"))
    assert (fork["fork"]["job"], fork["spec"]["selection"]["strategy"]) == (first, "all")
    went_on = data(semift("submit", "--set", f"from_job={first}", "--unlabeled", folder / "u.jsonl", "--json"))
    assert (went_on["from_job"], went_on["training_file"]) == (first, fork["training_file"])
    assert went_on["unlabeled_file"] != fork["unlabeled_file"]
    assert len(files_at(server)) == 3


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
    assert semift("pause", second).stdout.strip() == f"{second} paused"
    assert semift("resume", second).stdout.strip() == f"{second} queued"
    assert semift("pause", failing).exit_code == 2
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
        code in EPILOG
        for code in ("0 ok", "1 the job failed", "2 wrong", "3 the job was", "4 the server", "130 ctrl-C", "143 ")
    )
    assert CliRunner().invoke(app, ["jobs", "--no-such"]).exit_code == 2


def started(*arguments: str, **how: Any) -> subprocess.Popen[str]:
    """The command as a process of its own. It hears ctrl-C, also where the tests are a shell's job in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r}); from semift.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, **how)


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-C", "SIGTERM"])
def test_up_starts_the_checkout_s_server_and_a_signal_ends_it(
    told: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started("up", "--port", "0", "--data-dir", str(tmp_path / "up"), cwd=ROOT / "docs")
    try:
        assert process.stdout is not None
        url = next(line for line in process.stdout if " URL " in line).split()[1]
        assert CliRunner().invoke(app, ["doctor", "--url", url]).exit_code == BAD_INPUT  # no key, no answer
        monkeypatch.setenv("SEMIFT_DATA_DIR", str(tmp_path / "up"))  # where it lies, the client knows by itself
        assert CliRunner().invoke(app, ["doctor", "--url", url]).exit_code == 0
        children = psutil.Process(process.pid).children(recursive=True)
        assert any("celery" in child.cmdline() for child in children)
        process.send_signal(told)
        if told == signal.SIGTERM:
            process.send_signal(told)  # whoever repeats himself must not leave the worker behind
        assert process.wait(120) == 0
        _, alive = psutil.wait_procs(children, 60)
        assert alive == []
        assert "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "up" / "semift.db").is_file()


@pytest.mark.parametrize(("told", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-C", "SIGTERM"])
def test_a_signal_ends_the_watching_and_not_the_job(
    semift: Semift, server: str, folder: Path, told: signal.Signals, code: int
) -> None:
    job_id = submitted(semift, folder)
    process = started("watch", job_id, "--url", server, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()  # it follows
        process.send_signal(told)
        assert process.wait(120) == code
    finally:
        process.kill()
        _, said = process.communicate()
    assert "Detached; the job goes on" in said
    assert "Traceback" not in said
    assert [job["status"] for job in data(semift("jobs", "--json"))["data"]] == ["queued"]


def test_keys_are_made_by_the_checkout_s_own_command(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'client')!r}); from semift.cli import main; main()"

    def keys(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "keys", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "client")}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False)

    made = keys("create", "--tenant", "acme", "--expires", "1d", "--data-dir", "here")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("sk-semift-")
    assert (tmp_path / "here" / "semift.db").is_file()  # as seen from here, not from the checkout
    wrong = keys("create", "--tenant", "Acme!")
    assert (wrong.returncode, "is no tenant" in wrong.stderr) == (2, True)
