"""Only weights that are safetensors, and no code beside them, are ever loaded: LMs and adapters alike."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.settings import Settings
from tests.conftest import Configure
from tests.rows import add_job, get_job
from tests.worker.fake_runner import spec_for
from tests.worker.working import work
from worker.places import NotHere, lm_place
from worker.semisup.errors import LmNotFound
from worker.semisup.folders import check_adapter_folder, check_lm_folder, revision, weights_sha256

COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"


def folder(root: Path, **files: Any) -> Path:
    """A good LM folder with some files replaced (`name__ending`), added, or left out (None)."""
    root.mkdir(parents=True, exist_ok=True)
    good = {"config__json": {"model_type": "llama"}, "model__safetensors": "weights", "tokenizer_config__json": {}}
    for name, content in (good | files).items():
        path = root / name.replace("__", ".")
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return root


BAD = [
    ({"config__json": None}, "model_not_allowed", "no config.json"),
    ({"model__safetensors": None}, "model_unsafe", "no *.safetensors"),
    ({"pytorch_model__bin": "x"}, "model_unsafe", "pytorch_model.bin may be a pickle"),
    ({"optimizer__pt": "x"}, "model_unsafe", "optimizer.pt"),
    ({"MODEL__PKL": "x"}, "model_unsafe", "MODEL.PKL"),
    ({"modeling_evil__py": "x"}, "model_unsafe", "modeling_evil.py is code"),
    (
        {"config__json": {"auto_map": {"AutoModel": "evil.Model"}}},
        "model_unsafe",
        "config.json wants code of its own (auto_map)",
    ),
    ({"tokenizer_config__json": {"auto_map": {"AutoTokenizer": ["evil.T", None]}}}, "model_unsafe", "tokenizer_config.json"),
    ({"config__json": {"text_config": {"trust_remote_code": True}}}, "model_unsafe", "trust_remote_code"),
    ({"config__json": {"custom_pipelines": {"x": {"impl": "evil.P"}}}}, "model_unsafe", "custom_pipelines"),
    ({"config__json": "{"}, "model_unsafe", "config.json is not JSON"),
]


@pytest.mark.parametrize(("files", "code", "says"), BAD)
def test_a_folder_with_code_or_pickles_is_not_loaded(tmp_path: Path, files: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(LmNotFound) as caught:
        check_lm_folder(folder(tmp_path / "lm", **files), "big-lm")
    assert caught.value.code == code
    assert says in caught.value.message
    assert "big-lm" in caught.value.message
    assert str(tmp_path) not in caught.value.message
    assert caught.value.hint


def test_a_pickle_in_a_folder_beneath_is_found_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "lm")
    (root / "original").mkdir()
    (root / "original" / "consolidated.00.pth").write_text("x")
    with pytest.raises(LmNotFound, match="consolidated"):
        check_lm_folder(root, "lm")


def test_good_folders_are_taken(tmp_path: Path) -> None:
    check_lm_folder(folder(tmp_path / "lm"), "lm")
    check_adapter_folder(folder(tmp_path / "full"), "full")
    lora = folder(tmp_path / "lora", config__json=None, adapter_config__json={"peft_type": "LORA", "auto_mapping": None})
    check_adapter_folder(lora, "lora")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"adapter_model__bin": "x"}, "adapter_model.bin may be a pickle"),
        ({"adapter_config__json": {"auto_mapping": {"base_model_class": "E", "parent_library": "evil"}}}, "auto_mapping"),
        ({"adapter_config__json": None}, "no adapter"),
    ],
)
def test_an_adapter_is_looked_at_in_the_same_way(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    given = {"config__json": None, "adapter_config__json": {"peft_type": "LORA"}} | files
    with pytest.raises(LmNotFound, match=says):
        check_adapter_folder(folder(tmp_path / "adapter", **given), "adapter")


def test_the_hash_of_weights_is_remembered_until_they_change(tmp_path: Path) -> None:
    root, notes = folder(tmp_path / "lm"), tmp_path / "cache" / "weights.json"
    first = weights_sha256(root, notes)
    entry = json.loads(notes.read_text())
    entry[str(root.resolve())]["sha256"] = "what was noted"
    notes.write_text(json.dumps(entry))
    assert weights_sha256(root, notes) == "what was noted"
    (root / "model.safetensors").write_text("other weights")
    assert weights_sha256(root, notes) not in (first, "what was noted")
    notes.write_text("not JSON")
    assert weights_sha256(root, notes) == weights_sha256(root)


def test_two_processes_may_note_the_same_weights_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, notes = folder(tmp_path / "lm"), tmp_path / "cache" / "weights.json"
    write, others = Path.write_text, []

    def overtaken(path: Path, *args: Any, **kwargs: Any) -> int:
        """Another one comes, writes and is done before this one puts its file in place."""
        written = write(path, *args, **kwargs)
        if not others:
            others.append(path)
            others.append(weights_sha256(root, notes))
        return written

    monkeypatch.setattr(Path, "write_text", overtaken)
    found = weights_sha256(root, notes)
    assert others[1] == found
    assert json.loads(notes.read_text())[str(root.resolve())]["sha256"] == found
    assert [path.name for path in notes.parent.iterdir()] == [notes.name]


def test_a_snapshot_of_a_hub_tells_its_commit(tmp_path: Path) -> None:
    assert revision(tmp_path / "models--x" / "snapshots" / "0e9e39f") == "0e9e39f"
    assert revision(tmp_path / "lm") is None


def test_a_worker_says_at_its_start_what_is_wrong_with_an_lm(
    tmp_path: Path, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    from worker.tasks import look_at_lms

    bad, good = folder(tmp_path / "bad", model__bin="x"), folder(tmp_path / "good")
    configure(base_lms=json.dumps({"bad-lm": str(bad), "good-lm": str(good), "small": "bundled:1"}))
    with caplog.at_level(logging.ERROR):
        look_at_lms()
    assert [record.getMessage() for record in caplog.records if "model.bin" in record.getMessage()] != []
    assert not [record for record in caplog.records if "good-lm" in record.getMessage()]


def test_an_lm_that_is_not_the_revision_of_the_list_is_refused(tmp_path: Path, configure: Configure) -> None:
    root = folder(tmp_path / "snapshots" / COMMIT)
    known = weights_sha256(root)

    def listed(revision: str) -> None:
        lms = {"big-lm": str(root), "small": "bundled:1"}
        configure(base_lms=json.dumps(lms), base_lm_revisions=json.dumps({"big-lm": revision}), data_dir=tmp_path / "data")

    for right in (known, COMMIT):
        listed(right)
        assert lm_place("big-lm") == str(root)
    for wrong in ("0" * 64, "0" * 40):
        listed(wrong)
        with pytest.raises(NotHere, match=wrong) as caught:
            lm_place("big-lm", "propagation.collaborators")
        assert (caught.value.code, caught.value.param) == ("model_unsafe", "propagation.collaborators")
        assert lm_place("small") == "bundled:1"
    listed(known)
    (root / "model.safetensors").write_text("other weights")
    with pytest.raises(NotHere, match="'big-lm' is at revision"):
        lm_place("big-lm")


def test_a_job_of_an_lm_at_another_revision_fails_before_it_runs(sqlite: str, tmp_path: Path, configure: Configure) -> None:
    root = folder(tmp_path / "lm")
    for wanted, status in (("0" * 64, "failed"), (weights_sha256(root), "succeeded")):
        configure(base_lms=json.dumps({"big-lm": str(root)}), base_lm_revisions=json.dumps({"big-lm": wanted}))
        (tmp_path / wanted).mkdir()
        job = add_job(base_lm="big-lm", spec=spec_for(tmp_path / wanted))
        work()
        row = get_job(job)
        assert row.status == status
        if status == "failed":
            assert row.error
            assert (row.error["code"], row.error["param"]) == ("model_unsafe", "model")
            assert not (tmp_path / wanted / "runner-lines").exists()


@pytest.mark.parametrize(
    ("revisions", "says"),
    [({"big": "main"}, "64"), ({"big": "A" * 64}, "lower-case"), ({"small": "0" * 64}, "no folder"), ({"x": "0" * 64}, "'x'")],
)
def test_a_revision_that_cannot_be_one_stops_the_server(configure: Configure, revisions: dict[str, str], says: str) -> None:
    configure(base_lms=json.dumps({"big": "/lms/big", "small": "bundled:1"}), base_lm_revisions=json.dumps(revisions))
    with pytest.raises(ValidationError, match=says):
        Settings()


@pytest.mark.parametrize("place", ["bundled:0", "bundled:7", "bundled:x", "bundled:3+writer", "bundled:"])
def test_a_bundled_lm_that_does_not_exist_stops_the_server(configure: Configure, place: str) -> None:
    configure(base_lms=json.dumps({"small": place}))
    with pytest.raises(ValidationError, match=r"bundled:1 to bundled:6") as caught:
        Settings()
    assert place in str(caught.value)


@pytest.mark.parametrize("place", ["bundled:1", "bundled:6+reader"])
def test_a_bundled_lm_may_be_named(configure: Configure, place: str) -> None:
    configure(base_lms=json.dumps({"small": place}))
    assert Settings().base_lms == {"small": place}
