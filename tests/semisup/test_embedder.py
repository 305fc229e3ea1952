import numpy as np
import pytest
import torch

from worker.semisup import embedder as module
from worker.semisup.embedder import Embedder

TEXTS = ["where is my card", "a", "it was stolen in a shop far away from home, on the second day of the trip", ""]


class Counted(Embedder):
    """Counts the batches that are computed."""

    def __init__(self, lab) -> None:
        self.batches = 0
        super().__init__(lab._load_embedder, torch.device("cpu"), lambda doing: None)

    def _batch(self, texts):
        self.batches += 1
        return super()._batch(texts)


def test_the_same_call_is_computed_once_and_another_process_gets_the_same_bits(bundled_lab):
    first, second = Counted(bundled_lab), Counted(bundled_lab)
    rows = first(TEXTS)
    assert first(list(TEXTS)) is rows
    assert first.batches == 1
    second(TEXTS[:1])  # what it did before plays no part
    assert second(TEXTS).tobytes() == rows.tobytes()
    assert second.batches == 2  # the first text is computed again, beside the same others


def test_rows_come_back_in_the_order_of_the_texts(bundled_lab, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 2)  # the longest texts are computed last
    rows = Counted(bundled_lab)(TEXTS)
    for text, row in zip(TEXTS, rows, strict=True):
        assert Counted(bundled_lab)([text])[0] == pytest.approx(row, abs=1e-5)
    assert Counted(bundled_lab)([]).shape == (0, 384)


def test_nobody_can_write_into_what_is_shared(bundled_lab):
    rows = Counted(bundled_lab)(TEXTS)
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_the_oldest_call_is_forgotten_first(bundled_lab, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 4)
    made = Counted(bundled_lab)
    made(TEXTS[:2])
    made(TEXTS[2:3])
    made(TEXTS[:2])  # used again: the newest now
    made(TEXTS[1:3])  # five in all: one call has to go
    assert made.batches == 3
    made(TEXTS[:2])
    assert made.batches == 3
    made(TEXTS[2:3])
    assert made.batches == 4
