"""keep: made once, read back after; whole or not at all; another run's folder is refused."""

import pytest

from worker.semisup.data import Adapter, Ballot, Report, Selection, Vote
from worker.semisup.errors import KeepMismatch
from worker.semisup.keep import DirectoryKeep, MemoryKeep, canonical_json, decode, encode

RUN = {"spec": {"rounds": 1}, "files": {"labeled": "abc"}}


@pytest.fixture(params=["memory", "directory"])
def keep(request, tmp_path):
    return MemoryKeep(chunk_size=2) if request.param == "memory" else DirectoryKeep(tmp_path / "run", RUN, chunk_size=2)


def test_a_stage_is_made_once_and_then_read_back(keep):
    made = []

    def make():
        made.append(1)
        return Report({"value": 0.1 + 0.2})

    assert keep("stage", make) == keep("stage", make) == Report({"value": 0.1 + 0.2})
    assert len(made) == 1


def test_map_gives_one_output_an_item_in_order_and_finished_chunks_are_not_made_again(keep):
    seen = []

    def work(part):
        seen.append(list(part))
        if 3 in part and len(seen) < 3:
            raise RuntimeError("killed here")
        return [Report({"item": item}) for item in part]

    with pytest.raises(RuntimeError, match="killed here"):
        keep.map("work", [1, 2, 3, 4, 5], work)
    outputs = keep.map("work", [1, 2, 3, 4, 5], work)
    assert [o.body["item"] for o in outputs] == [1, 2, 3, 4, 5]
    assert seen == [[1, 2], [3, 4], [3, 4], [5]]


def test_within_prefixes_names_so_that_two_rounds_do_not_collide(keep):
    first = keep.within("round-1")("select", lambda: Report({"round": 1}))
    second = keep.within("round-2")("select", lambda: Report({"round": 2}))
    assert (first.body["round"], second.body["round"]) == (1, 2)
    assert set(keep.seconds()) == {"round-1/select", "round-2/select"}


def test_a_chunked_stage_costs_the_sum_of_its_chunks(keep):
    keep.map("work", [1, 2, 3], lambda part: [Report({"i": i}) for i in part])
    assert list(keep.seconds()) == ["work"]
    assert keep.seconds()["work"] >= 0


def test_a_folder_of_another_run_is_refused(tmp_path):
    DirectoryKeep(tmp_path, RUN)
    with pytest.raises(KeepMismatch, match="another run"):
        DirectoryKeep(tmp_path, {**RUN, "spec": {"rounds": 2}})


def test_output_without_its_manifest_is_made_again(tmp_path):
    keep = DirectoryKeep(tmp_path, RUN)
    keep("stage", lambda: Report({"try": 1}))
    (tmp_path / "stages" / "stage" / "manifest.json").unlink()
    assert keep("stage", lambda: Report({"try": 2})).body == {"try": 2}


@pytest.mark.parametrize(
    "value",
    [
        [Ballot("u-1", (Vote("a", "B", "B", 1 / 3, 2), Vote("b", "?", None, 2.0, 1)))],
        Selection((), None, 0, 0, {"no_answer": 3}),
        [],
    ],
    ids=["ballots", "selection", "empty"],
)
def test_a_value_survives_its_files_unchanged(tmp_path, value):
    assert decode(encode(value, tmp_path), tmp_path) == value


def test_an_adapter_brings_its_files_along(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "adapter_model.safetensors").write_bytes(b"weights")
    stored = tmp_path / "stored"
    manifest = encode(Adapter(str(source), "lora", "0" * 64, 3, 12, 0.5), stored)
    back = decode(manifest, stored)
    assert (stored / "files" / "adapter_model.safetensors").read_bytes() == b"weights"
    assert back.path == str(stored / "files")
    assert str(source) not in (stored / "payload.json").read_text()


def test_a_changed_file_is_noticed(tmp_path):
    manifest = encode(Report({"a": 1}), tmp_path)
    (tmp_path / "payload.json").write_text('{"body":{"a":2}}')
    with pytest.raises(KeepMismatch, match="changed since it was stored"):
        decode(manifest, tmp_path)


def test_equal_values_have_one_byte_form_and_nan_has_none():
    assert canonical_json({"b": 1, "a": [0.1]}) == canonical_json({"a": (0.1,), "b": 1}) == b'{"a":[0.1],"b":1}'
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json({"a": float("nan")})
