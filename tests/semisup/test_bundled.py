"""The bundled LMs: causal, built once, and what the reader adds to them."""

import pytest
import torch

from models.settings import BUNDLED
from worker.semisup.bundled import READ, Bundled, build_bundled
from worker.semisup.data import Message
from worker.semisup.errors import LmNotFound
from worker.semisup.lm import Lab
from worker.semisup.spec import LoraSpec


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Lab:
    cache = tmp_path_factory.mktemp("reader")
    return Lab("bundled:1+reader", name="reader", cache=cache, device="cpu", threads=1, precision="fp32")


def test_the_bundled_lm_is_causal_and_parses_its_own_chat(bundled_lab):
    with bundled_lab.lm(None) as lm, torch.inference_mode():
        left = lm.network(torch.tensor([[10, 20, 30, 40]])).logits
        right = lm.network(torch.tensor([[10, 20, 99, 40]])).logits
    assert torch.equal(left[:, :2], right[:, :2])
    assert not torch.equal(left[:, 3], right[:, 3])
    tokens = bundled_lab.encode_prompt([Message("user", "hi")], 64)
    assert bundled_lab.tokenizer.convert_ids_to_tokens(tokens) == ["<|user|>", "hi", "<|end|>", "<|assistant|>"]


def test_the_bundled_lm_is_built_once_and_again_when_its_recipe_changed(tmp_path):
    out = build_bundled(tmp_path / "lm", 1)
    first = (out / "config.json").stat().st_mtime_ns
    assert build_bundled(out, 1) == out
    assert (out / "config.json").stat().st_mtime_ns == first
    (out / "recipe").write_text("of an older version")
    build_bundled(out, 1)
    assert (out / "config.json").stat().st_mtime_ns != first


@pytest.mark.parametrize(
    ("place", "which"),
    [("bundled:3", Bundled(3, False)), ("bundled:6+reader", Bundled(6, True)), ("/lms/bundled:3", None)],
)
def test_a_bundled_lm_is_told_from_a_folder(place, which):
    assert Bundled.parse(place) == which
    assert bool(BUNDLED.fullmatch(place)) == (which is not None)  # the settings' own pattern says the same


@pytest.mark.parametrize("place", ["bundled:0", "bundled:7", "bundled:x", "bundled:3+writer", "bundled:"])
def test_a_bundled_lm_that_does_not_exist_is_named(place, tmp_path):
    assert not BUNDLED.fullmatch(place)
    with pytest.raises(LmNotFound) as caught:
        Lab(place, name="x", cache=tmp_path)
    assert place in str(caught.value)
    assert "bundled:6" in (caught.value.hint or "")


def test_the_reader_adds_the_mean_of_all_states_so_far(reader):
    ids = torch.tensor([reader.encode_prompt([Message("user", "i lost my card on the second day of the trip")], 64)])
    with reader.lm(None) as lm:
        below, above = lm.network(ids, output_hidden_states=True).hidden_states[-2:]
    means = below.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[None, :, None]
    expected = torch.nn.functional.layer_norm(READ * means + below, below.shape[-1:])
    assert torch.allclose(above, expected, atol=1e-4)


def test_the_reader_takes_no_notice_of_padding(reader):
    rows = [
        reader.encode_prompt([Message("user", text)], 64) for text in ("lost", "i lost my card on the second day of the trip")
    ]
    with reader.lm(None) as lm:
        together = lm.generate(rows, temperature=0.0, seeds=[0, 0], max_new_tokens=3)
        alone = [lm.generate([row], temperature=0.0, seeds=[0], max_new_tokens=3)[0] for row in rows]
    assert [made.text for made in together] == [made.text for made in alone]
    assert [made.mean_nll for made in together] == pytest.approx([made.mean_nll for made in alone], abs=1e-4)


def test_the_reader_learns_what_it_passes_on_and_goes_on_reading_everything_alike(reader):
    ids = torch.tensor([reader.encode_prompt([Message("user", "i lost my card")], 64)])
    with reader.training(None, "lora", LoraSpec()) as network:
        network(ids, labels=ids).loss.backward()
        learned = {
            part: weight.grad.abs().max().item()
            for name, weight in network.named_parameters()
            for part in ("query", "key", "value")
            if f"layer.1.attention.self.{part}.lora_B" in name
        }
    assert learned["value"] > 0
    assert learned["query"] == learned["key"] == 0


def test_the_reader_knows_all_words(reader, bundled_lab):
    assert reader.tokenizer.tokenize("withdrawal") == ["withdrawal"]
    assert len(bundled_lab.tokenizer.tokenize("withdrawal")) > 1
    assert len(bundled_lab.tokenizer) == 8000
