"""The lm seam: seeded sampling from the right distribution, mean_nll in closed form, no trace of padding or batch mates."""

import math

import numpy as np
import pytest
import torch

from worker.semisup.data import Message
from worker.semisup.errors import LmNotFound
from worker.semisup.lm import Lab, SeededSampler, response_nll


def prompts(lab: Lab) -> list[list[int]]:
    texts = ["one", "two words", "now three words here", "a much longer prompt than all of the others before it"]
    return [lab.encode_prompt([Message("user", text)], 64) for text in texts]


def test_a_sample_depends_on_its_own_seed_and_not_on_its_batch_mates(lab):
    rows = prompts(lab)
    with lab.lm(None) as lm:
        together = lm.generate(rows, temperature=1.0, seeds=[1, 2, 3, 4], max_new_tokens=6)
        alone = [lm.generate([r], temperature=1.0, seeds=[s], max_new_tokens=6)[0] for r, s in zip(rows, (1, 2, 3, 4))]  # noqa: B905
        other = lm.generate(rows, temperature=1.0, seeds=[5, 6, 7, 8], max_new_tokens=6)
    assert [g.text for g in together] == [g.text for g in alone]
    assert [g.mean_nll for g in together] == pytest.approx([g.mean_nll for g in alone], abs=1e-4)
    assert [g.text for g in together] != [g.text for g in other]


def test_generation_reports_the_nll_that_teacher_forcing_gives(lab):
    rows = prompts(lab)
    with lab.lm(None) as lm:
        made = lm.generate(rows, temperature=0.0, seeds=[0] * 4, max_new_tokens=1)
        with torch.inference_mode():
            logits = [lm.network(torch.tensor([row])).logits[0, -1] for row in rows]
    expected = [-float(row.log_softmax(-1).max()) for row in logits]
    assert [g.mean_nll for g in made] == pytest.approx(expected, abs=1e-4)
    assert [g.tokens for g in made] == [1] * 4


def test_the_nll_of_a_response_is_the_same_alone_and_beside_longer_ones(lab):
    rows, responses = prompts(lab), [[5], [6, 7], [8, 9, 10], [11]]
    with lab.lm(None) as lm, torch.inference_mode():
        nll, mask = response_nll(lm.network, lab, rows, responses)
        alone = [response_nll(lm.network, lab, [p], [r])[0].sum() for p, r in zip(rows, responses, strict=True)]
    assert mask.sum(1).tolist() == [1, 2, 3, 1]
    assert nll.sum(1).tolist() == pytest.approx([float(one) for one in alone], abs=1e-3)


def test_an_empty_response_is_an_error_not_a_division_by_zero(lab):
    with lab.lm(None) as lm, pytest.raises(ValueError, match="no tokens"):
        response_nll(lm.network, lab, [[1, 2]], [[]])


def test_sampling_follows_the_tempered_distribution_and_the_nll_the_untempered_one():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    drawn = []
    for seed in range(4000):
        sampler = SeededSampler(0.5, [seed], ends=set())
        out = sampler(torch.zeros(1, 1, dtype=torch.long), logits)
        drawn.append(int(out.argmax()))
        assert sampler.nll[0] == pytest.approx(-float(logits.log_softmax(-1)[0, drawn[-1]]), abs=1e-6)
    expected = np.exp([4.0, 2.0, 0.0]) / np.exp([4.0, 2.0, 0.0]).sum()
    assert np.bincount(drawn, minlength=3) / 4000 == pytest.approx(expected, abs=0.02)


def test_tokens_after_the_end_are_not_counted():
    sampler = SeededSampler(0.0, [0], ends={1})
    ids = torch.zeros(1, 1, dtype=torch.long)
    sampler(ids, torch.tensor([[5.0, 0.0]]))
    sampler(ids, torch.tensor([[0.0, 5.0]]))
    sampler(ids, torch.tensor([[5.0, 0.0]]))
    assert sampler.tokens == [2]
    assert sampler.nll[0] == pytest.approx(2 * math.log(1 + math.exp(-5)), abs=1e-5)


def test_embeddings_have_unit_length_and_ignore_padding(lab):
    rows = lab.embed(["where is my card", "a completely different and much longer sentence about the weather in spring"])
    assert rows.shape == (2, 384)
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-5)
    assert lab.embed(["where is my card"])[0] == pytest.approx(rows[0], abs=1e-5)


def test_a_long_prompt_loses_its_front(lab):
    full = lab.encode_prompt([Message("user", "a b c d e f g h")], 64)
    assert lab.encode_prompt([Message("user", "a b c d e f g h")], 5) == full[-5:]


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LmNotFound, match="holds no language model"):
        Lab(str(tmp_path), name="x", cache=tmp_path)
