"""job.yaml, flags and --set become one order; what is wrong with it names the key."""

from pathlib import Path

import pytest
from semift.errors import BadInput
from semift.submit import is_file_id, read_order
from semift.up import command, find_checkout, python_of

NO_FLAGS: dict[str, str | None] = {"labeled": None, "model": None}


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text)
    return path


def test_flags_and_sets_lie_on_top_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "model: small\nlabeled: data/l.csv\nunlabeled: file-abc\nseed: 7\n"
        "semi_supervised: {rounds: 1, selection: {strategy: percentile, theta: 50.0}}\n",
    )
    sets = ["rounds=2", "selection.theta=30.0", "propagation.in_context=false", "answer.labels=[a, b]"]
    assert read_order(path, {"labeled": None, "model": "large", "test": "t.csv"}, sets) == {
        "model": "large",
        "labeled": str(tmp_path / "data/l.csv"),
        "unlabeled": "file-abc",
        "test": "t.csv",
        "seed": 7,
        "semi_supervised": {
            "rounds": 2,
            "selection": {"strategy": "percentile", "theta": 30.0},
            "propagation": {"in_context": False},
            "answer": {"labels": ["a", "b"]},
        },
    }


def test_flags_alone_are_an_order() -> None:
    assert read_order(None, {"labeled": "l.csv", "model": None}, []) == {"labeled": "l.csv", "semi_supervised": {}}


def test_an_earlier_job_brings_the_labels(tmp_path: Path) -> None:
    fork = read_order(write(tmp_path, "fork: ftjob-1\nsemi_supervised: {rounds: 2}\n"), NO_FLAGS, ["selection.theta=30.0"])
    assert fork == {"semi_supervised": {"rounds": 2, "fork": {"job": "ftjob-1"}, "selection": {"theta": 30.0}}}
    sets = ["from_job=ftjob-1"]
    assert read_order(None, NO_FLAGS, sets) == {"semi_supervised": {"from_job": "ftjob-1"}}


@pytest.mark.parametrize(
    ("text", "sets", "words"),
    [
        ("labelled: a.csv", [], ("'labelled'", "'labeled'")),
        ("model: m", [], ("No labeled file", "--labeled")),
        ("[1, 2]", [], ("mapping", "labeled, unlabeled")),
        ("labeled: [a", [], ("not YAML",)),
        ("labeled: a\nsemi_supervised: 3", [], ("semi_supervised", "mapping")),
        ("labeled: a", ["rounds"], ("'rounds'", "rounds=2")),
        ("labeled: a", ["rounds=[1"], ("rounds=[1", "not YAML")),
        ("labeled: a", ["rounds=1", "rounds.x=2"], ("rounds.x", "not a block")),
    ],
)
def test_a_wrong_order_names_what_is_wrong(tmp_path: Path, text: str, sets: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        read_order(write(tmp_path, text), NO_FLAGS, sets)
    told = f"{caught.value.message} {caught.value.hint}"
    assert all(word in told for word in words), told


def test_an_order_that_is_not_there_or_not_text_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_order(tmp_path / "none.yaml", NO_FLAGS, [])
    (tmp_path / "job.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="cannot be read"):
        read_order(tmp_path / "job.yaml", NO_FLAGS, [])


def test_a_path_that_looks_like_an_id_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_file_id("file-rows.csv")
    (tmp_path / "file-rows.csv").touch()
    assert not is_file_id("file-rows.csv")


def test_the_checkout_is_the_one_around_the_folder(tmp_path: Path) -> None:
    (tmp_path / "repo" / "api").mkdir(parents=True)
    (tmp_path / "repo" / "api" / "up.py").touch()
    (tmp_path / "repo" / "data" / "deep").mkdir(parents=True)
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert find_checkout([tmp_path / "repo" / "data" / "deep", other]) == tmp_path / "repo"
    assert find_checkout([other, tmp_path / "repo"]) == tmp_path / "repo"
    with pytest.raises(BadInput, match="No Semift checkout"):
        find_checkout([other])


def test_the_server_runs_with_the_checkout_s_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert python_of(tmp_path) != str(tmp_path / ".venv/bin/python")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    monkeypatch.chdir(tmp_path)
    python = str(tmp_path / ".venv/bin/python")
    assert command(tmp_path, Path("data"), None, 0) == [
        python,
        "-m",
        "api.up",
        "--data-dir",
        str(tmp_path / "data"),
        "--port",
        "0",
    ]
    assert command(tmp_path, None, None, None) == [python, "-m", "api.up"]
