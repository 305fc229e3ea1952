"""The select stage around the selectors: reasons, caps, guarantees and notes, and the rounds in which nothing is selected."""

import json

import numpy as np
import pytest

from tests.semisup.builders import candidate, query
from worker.semisup.answers import Answers
from worker.semisup.automatic import settle
from worker.semisup.data import Calibration, Candidate, Judged, Neighbours, Vote
from worker.semisup.errors import DataError
from worker.semisup.keep import canonical_json, decode, encode
from worker.semisup.spec import Caps, JobSpec, KeepAll, Percentile, RiskControl
from worker.semisup.stages.select import select

NONE = Neighbours({}, {})


def run(candidates, spec, *, round_number=1, **given):
    pool = [query(c.query_id, f"text of {c.query_id}") for c in candidates]
    return select(candidates, pool, NONE, spec, round_number=round_number, seed=0, **given)


def line(*labels: str):
    """Candidates u-0, u-1, …, less and less confident."""
    return [candidate(f"u-{i}", label, 0.1 * i) for i, label in enumerate(labels)]


def calibration(right: int, wrong: int, silent: int = 0, mode="held_out") -> Calibration:
    answers = [("red", True)] * right + [("red", False)] * wrong + [(None, False)] * silent
    return Calibration(mode, 1, tuple(Judged(f"l-{i}", 0, a, 0.0, 1.0, ok) for i, (a, ok) in enumerate(answers)))


def reasons(selection) -> list[str]:
    return [sample.reason for sample in selection.samples]


def test_caps_come_after_the_cut_near_duplicates_first():
    def embed(texts):
        seen.append(list(texts))
        return np.array([{"3": [0.0, 1.0, 0.0], "4": [0.0, 0.0, 1.0]}.get(text[-1], [1.0, 0.0, 0.0]) for text in texts])

    seen: list[list[str]] = []
    spec = KeepAll(caps=Caps(max_near_duplicates=2, max_class_share=0.5))
    selection = run([*line("red", "red", "red", "red", "blue"), candidate("u-5", None, 0.0)], spec, embed=embed)
    assert reasons(selection) == ["selected", "class_cap", "near_duplicate", "class_cap", "selected", "no_answer"]
    assert seen == [[f"text of u-{i}" for i in range(5)]]
    assert selection.selected + selection.rejected == 6
    assert selection.reasons == {"class_cap": 2, "near_duplicate": 1, "no_answer": 1, "selected": 2}


def test_without_the_cap_nothing_is_embedded():
    def embed(texts):
        raise AssertionError("embedded")

    selection = run(line("red", "blue"), KeepAll(caps=Caps(max_class_share=0.5)), embed=embed)
    assert selection.selected == 2


def test_the_class_cap_names_itself():
    selection = run(line("red", "red", "blue", "red", "red"), KeepAll(caps=Caps(max_class_share=0.5)))
    assert reasons(selection) == ["selected", "class_cap", "selected", "class_cap", "class_cap"]


def test_a_guarantee_says_what_it_rests_on_and_outlives_storage(tmp_path):
    spec = RiskControl(precision=0.9, confidence=0.9)
    selection = run(line("red", "red", "blue", "red"), spec, calibration=calibration(100, 1, silent=7))
    told = selection.guarantee
    assert told["certified"]
    assert told["exact"]
    assert (told["mode"], told["calibration_rows"], told["errors"]) == ("held_out", 101, 1)  # silent rows are no rows
    assert told["kept_share_by_class"] == {"blue": 1.0, "red": 1.0}
    assert told["dropped_by_caps"] == 0
    assert selection.note is None
    assert decode(encode(selection, tmp_path), tmp_path) == selection
    assert json.loads(canonical_json(selection))["guarantee"]["target"] == 0.9


def test_the_reason_of_a_row_above_the_certified_threshold():
    rows = [Judged(f"l-{i}", 0, "red", i / 400, 1.0, i < 200) for i in range(400)]
    candidates = [candidate(f"u-{i}", "red", i / 100) for i in range(100)]
    selection = run(candidates, RiskControl(), calibration=Calibration("held_out", 1, tuple(rows)))
    assert reasons(selection)[0] == "selected"
    assert reasons(selection)[-1] == "above_certified_threshold"
    assert selection.threshold == selection.guarantee["threshold"]
    assert selection.selected == sum(s.mean_nll <= selection.threshold for s in selection.samples)


@pytest.mark.parametrize(
    ("mode", "round_number", "says"),
    [("cross_fit", 1, "networks trained on fewer labels"), ("held_out", 2, "what earlier rounds left")],
)
def test_a_promise_that_is_approximate_says_so(mode, round_number, says):
    made = calibration(100, 0, mode=mode)
    selection = run(line("red", "red"), RiskControl(), calibration=made, round_number=round_number)
    assert selection.guarantee["certified"]
    assert not selection.guarantee["exact"]
    assert says in selection.note


def test_caps_after_a_certificate_are_counted():
    spec = RiskControl(caps=Caps(max_class_share=0.5))
    selection = run(line("red", "red", "blue", "red"), spec, calibration=calibration(100, 0))
    assert selection.guarantee["certified"]
    assert selection.guarantee["dropped_by_caps"] == 2
    assert selection.selected == 2


def test_without_calibration_the_job_says_that_nothing_is_promised():
    selection = run(line("red", "red", "blue", "red"), RiskControl(theta=50.0))
    assert not selection.guarantee["certified"]
    assert selection.guarantee["mode"] is None
    assert selection.selected == 2
    assert "no calibration rows" in selection.note


def test_a_round_that_selects_nothing_says_so_and_fails_nothing():
    selection = run(line("red", "blue"), Percentile(theta=0.0))
    assert (selection.selected, selection.rejected) == (0, 2)
    assert selection.note == "Round 1 selected none of 2 rows (above_percentile: 2): it adds nothing to train on."
    empty = run([], Percentile(), round_number=2)
    assert empty.note == "Round 2 had no rows left to label: earlier rounds selected them all."
    assert (empty.selected, empty.rejected, dict(empty.reasons)) == (0, 0, {})


def said(identity: str, *votes: tuple[str, str | None], tokens: int = 2) -> Candidate:
    made = tuple(Vote(f"c{i}", text, answer, 0.5, tokens) for i, (text, answer) in enumerate(votes))
    answer = next((vote.answer for vote in made if vote.answer), None)
    return Candidate(identity, answer or "", answer, 0.5, 1.0 if answer else 0.0, "vote", made)


def test_garbage_alone_ends_the_job_with_five_of_the_things_that_were_said():
    garbage = [said(f"u-{i}", (f"babble {i}", None), ("x" * 200, None)) for i in range(20)]
    with pytest.raises(DataError, match="None of 40 responses to 20 unlabeled rows") as caught:
        run(garbage, Percentile())
    assert caught.value.code == "low_parse_rate"
    assert caught.value.message.count("babble") == 4
    assert "x" * 79 + "…" in caught.value.message
    assert "x" * 80 not in caught.value.message
    assert "warmup" in caught.value.hint


def test_empty_responses_are_garbage_too():
    with pytest.raises(DataError, match="such as: ''") as caught:
        run([said("u-0", ("", None))], Percentile())
    assert caught.value.code == "low_parse_rate"


def test_a_later_round_of_garbage_keeps_what_earlier_rounds_made():
    selection = run([said("u-0", ("babble", None))], Percentile(), round_number=2)
    assert selection.selected == 0
    assert "Only 0 of 1 generated responses hold an answer; others said: 'babble'." in selection.note
    assert "adds nothing to train on" in selection.note


def test_few_answers_among_much_garbage_are_noted():
    rows = [said("u-0", ("red", "red")), *(said(f"u-{i}", ("babble", None)) for i in range(1, 10))]
    selection = run(rows, KeepAll())
    assert selection.selected == 1
    assert selection.note.startswith("Only 1 of 10 generated responses hold an answer")
    enough = [said(f"u-{i}", ("red", "red")) for i in range(2)] + rows[2:]
    assert run(enough, KeepAll()).note is None


def test_the_votes_of_views_do_not_hide_that_the_lm_says_nothing():
    view = Vote("near", "red", "red", 0.2, 0)
    rows = [Candidate(f"u-{i}", "red", "red", 0.2, 0.5, "vote", (Vote("a", "babble", None, 0.5, 3), view)) for i in range(5)]
    selection = run(rows, KeepAll())
    assert selection.selected == 5
    assert selection.note.startswith("Only 0 of 5 generated responses")


def test_an_engine_that_could_not_be_reached_said_nothing_and_is_not_blamed_for_garbage():
    away = Vote("engine", "", None, 0.0, 0, error="timed out")
    selection = run([Candidate("u-0", "", None, 0.0, 0.0, "vote", (away,))], KeepAll())
    assert selection.reasons == {"no_answer": 1}
    assert "generated" not in selection.note


def view(name: str, *scores: tuple[str, float]) -> Vote:
    return Vote(name, scores[0][0], scores[0][0], 0.1, 0, scores=scores)


SURE, UNSURE = Vote("a", "blue", "blue", 0.01, 2), Vote("a", "blue", "blue", 0.2, 2)  # 0.98 and 0.67 of the whole response
DENYING = view("x", ("red", 0.8), ("green", 0.1), ("blue", 0.1))


@pytest.mark.parametrize(
    ("votes", "dropped"),
    [
        ((SURE, DENYING), True),
        ((SURE, view("x", ("red", 0.9), ("green", 0.1))), True),  # not even named
        ((SURE, UNSURE, DENYING, DENYING), True),
        ((UNSURE, DENYING), False),
        ((SURE, DENYING, view("y", ("red", 0.5), ("blue", 0.4))), False),  # one of them takes it seriously
        ((SURE, view("x", ("blue", 0.4), ("red", 0.3))), False),
        ((SURE, Vote("b", "red", "red", 0.0, 2)), False),  # another LM is no classifier
        ((DENYING, view("y", ("blue", 0.9))), False),
        ((Vote("a", "blue", "blue", 0.01, 2, scored=False), DENYING), False),  # nobody knows how sure
        ((Vote("a", "dunno", None, 0.01, 2), DENYING), False),
    ],
)
def test_a_row_that_the_lm_is_sure_of_and_every_classifier_denies_is_dropped(votes, dropped):
    row = Candidate("u-0", "red", "red", 0.1, 0.5, "pool", votes)
    drop, keep = (KeepAll(caps=Caps(contradictions=word)) for word in ("drop", "keep"))
    assert reasons(run([row], drop)) == (["contradicted"] if dropped else ["selected"])
    assert reasons(run([row], keep)) == ["selected"]


def test_contradictions_are_dropped_where_selection_is_left_to_us_and_votes_are_pooled():
    closed, open_ = Answers("label", ("red", "blue")), Answers("text")

    def settled(answers, **fields):
        return settle(JobSpec.model_validate(fields), answers).selection.caps.contradictions

    assert settled(closed) == "drop"
    assert settled(closed, selection={"strategy": "auto", "caps": {"contradictions": "keep"}}) == "keep"
    assert settled(closed, selection={"strategy": "all"}) == "keep"
    assert settled(closed, selection={"strategy": "all", "caps": {"contradictions": "drop"}}) == "drop"
    assert settled(open_) == "keep"
    assert settled(closed, profile="paper") == "keep"
