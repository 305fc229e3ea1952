"""Numbers with reasoning, texts by meaning, and the whole reasoning kept: what goes beyond a letter or a label."""

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.semisup.builders import example, queries, query
from worker.semisup.answers import Answers, is_reasoned, resolve_answers
from worker.semisup.data import Ballot, Example, Neighbours, Split, Vote
from worker.semisup.errors import SpecError
from worker.semisup.ingest.load import read_labeled
from worker.semisup.job import run_job
from worker.semisup.keep import MemoryKeep
from worker.semisup.lm import Generated
from worker.semisup.prompts import justification
from worker.semisup.report import rights
from worker.semisup.spec import AutoAnswer, JobSpec, LabelAnswer, NumberAnswer, TextAnswer, load_spec
from worker.semisup.stages.agree import VOTE_RESOLVERS, agree, by_majority, justify, meaning_of
from worker.semisup.stages.evaluate import evaluate_knn, predictions_of
from worker.semisup.stages.neighbours import knn_vote
from worker.semisup.task import make_task

GSM8K = Path(__file__).parent / "data" / "gsm8k.jsonl"
SHORT = "48 / 2 = 24 and 48 + 24 = 72.\n#### 72"
LONG = "In May she sold half of 48, which is 24.\nTogether that makes 48 + 24 = 72 clips.\n#### 72"
WRONG = "She sold 48 and 48 more, so 96.\n#### 96"


@pytest.fixture(scope="module")
def gsm8k() -> tuple[Example, ...]:
    return read_labeled(GSM8K, "train.jsonl")


def said(*responses: tuple[str, float], answers: Answers, options: tuple[str, ...] = ()) -> Ballot:
    """The ballot of these (response, mean_nll) pairs as `propagate` would parse them."""
    asked = query("u-1", "which?", options)
    votes = (Vote(f"c{i}", text, answers.parse(text, asked), nll, 9) for i, (text, nll) in enumerate(responses))
    return Ballot("u-1", tuple(votes))


class ScriptedLab:
    """Says the given responses in order, records its prompts, and embeds as the real lab does."""

    def __init__(self, lab, *responses: str) -> None:
        self.real, self.responses, self.prompts = lab, responses, []
        self.embed = lab.embed

    def encode_prompt(self, messages, max_length: int) -> list[int]:
        self.prompts.append(messages)
        return [1]

    @contextmanager
    def lm(self, adapter):
        yield SimpleNamespace(
            generate=lambda prompts, **_: [Generated(text, 0.25, 7) for text in self.responses[: len(prompts)]]
        )


# --- numbers that follow a calculation --------------------------------------------------------------------------------


def test_a_gsm8k_file_is_read_as_numbers_with_their_steps(gsm8k):
    answers = resolve_answers(AutoAnswer(), gsm8k)
    assert (answers.kind, answers.marked) == ("number", True)
    assert len(gsm8k) == 20
    assert all(is_reasoned(row.response) and "####" in row.response for row in gsm8k)
    for row in gsm8k:
        assert answers.gold(row.response, row.query) == row.response.split("####")[1].strip().replace(",", "")
    assert resolve_answers(AutoAnswer(), gsm8k[:4]).kind == "number"
    few = [replace(row, response=f"Some steps. Answer: {i % 3}") for i, row in enumerate(gsm8k)]
    assert resolve_answers(AutoAnswer(), few).kind == "number"  # three distinct results are no closed set
    ratings = [replace(row, response=str(i % 3)) for i, row in enumerate(gsm8k)]
    assert resolve_answers(AutoAnswer(), ratings).kind == "label"


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (LONG, "72"),
        ("So it is 72. Answer: 72", "72"),
        ("#### 70\nNo, that is wrong. Answer: 72", "72"),
        ("Answer: 70\nNo, wait.\n#### 72", "72"),
        ("72", "72"),
        ("$72.00.", "72"),
        ("In May she sold 24", None),  # cut off: the only number in it is no result
        ("48 / 2 = 24", None),
        ("The steps are these.\n####", None),
        ("", None),
    ],
)
def test_a_result_is_what_follows_the_last_marker_and_a_response_cut_off_has_none(gsm8k, response, answer):
    assert resolve_answers(AutoAnswer(), gsm8k).parse(response, query("u-1", "?")) == answer


def test_long_numbers_are_told_apart_to_their_last_digit():
    answers = Answers("number")
    left, right = (answers.parse("9" * 40 + digit, query("u-1", "?")) for digit in "12")
    assert left == "9" * 40 + "1"
    assert not answers.same(left, right)
    assert answers.parse("-0.0", query("u-1", "?")) == "0"


@pytest.mark.parametrize("resolver", ["vote", "weighted_vote"])
def test_votes_agree_on_the_result_and_the_whole_reasoning_of_the_surest_is_trained_on(gsm8k, resolver):
    answers = resolve_answers(AutoAnswer(), gsm8k)
    settled = agree([said((LONG, 0.3), (SHORT, 0.2), (LONG, 0.4), answers=answers)], answers, "mean").settled[0]
    assert (settled.answer, settled.response, settled.agreement) == ("72", SHORT, 1.0)
    assert settled.mean_nll == pytest.approx(0.3)
    disputed = said((WRONG, 0.5), (SHORT, 0.4), (LONG, 0.3), ("In May she sold 24", 0.1), answers=answers)
    assert agree([disputed], answers, "mean").disputed == (disputed,)
    voted = VOTE_RESOLVERS[resolver](disputed, answers, "mean")
    assert (voted.answer, voted.response, voted.agreement) == ("72", LONG, 0.5)


def test_a_neighbours_vote_counts_but_its_bare_answer_never_replaces_reasoning():
    answers = Answers("number", marked=True)
    made = said((LONG, 0.9), answers=answers)
    with_knn = Ballot("u-1", (*made.votes, Vote("knn", "72", "72", 0.01, 0)))
    settled = agree([with_knn], answers, "mean").settled[0]
    assert (settled.response, settled.answer, settled.agreement) == (LONG, "72", 1.0)
    alone = agree([Ballot("u-1", with_knn.votes[1:])], answers, "mean").settled[0]
    assert alone.response == "72"


def test_self_justification_sees_every_reasoning_and_its_decision_keeps_the_reasoning_of_the_vote(lab, gsm8k):
    answers = resolve_answers(AutoAnswer(), gsm8k)
    ballot = said((WRONG, 0.1), (LONG, 0.5), (SHORT, 0.6), ("I think", 0.1), answers=answers)
    scripted = ScriptedLab(lab, "Half of 48 is 24, so 96 is wrong.\nAnswer: 72")
    asked = query("u-1", "How many clips?")
    (decided,) = justify(
        scripted, None, [ballot], {"u-1": asked}, answers, system=None, max_length=99, max_new_tokens=9, seed=1
    )
    assert (decided.answer, decided.response, decided.agreement, decided.mean_nll) == ("72", LONG, 0.5, 0.25)
    assert decided.justification is not None
    assert "96 is wrong" in decided.justification.response
    ((prompt,),) = scripted.prompts
    assert all(text in prompt.content for text in ("How many clips?", WRONG, LONG, SHORT))
    assert "I think" not in prompt.content
    assert justification(asked, ballot.votes, answers) == (prompt,)


# --- labels, letters and texts after reasoning ------------------------------------------------------------------------


def test_labels_and_letters_after_reasoning_agree_on_the_answer_and_keep_the_reasoning():
    labels = Answers("label", ("card_arrival", "age_limit"))
    one, other = "They wait for a card.\nAnswer: card_arrival", "It has not come! Answer: Card arrival".replace("d a", "d_a")
    settled = agree([said((one, 0.3), (other, 0.2), answers=labels)], labels, "mean").settled[0]
    assert (settled.answer, settled.response) == ("card_arrival", other)
    letters = Answers("choice")
    votes = said(
        ("Sales fell. Answer: B", 0.2), ("They fell.\nThe answer is: (B)", 0.3), answers=letters, options=("up", "down")
    )
    settled = agree([votes], letters, "mean").settled[0]
    assert (settled.answer, settled.response) == ("B", "Sales fell. Answer: B")


def test_labels_are_found_behind_the_reasoning_of_labeled_rows():
    rows = [example(f"l-{i}", f"q{i}", f"Because of {i}.\nAnswer: {('refund', 'delay')[i % 2]}") for i in range(6)]
    for spec in (AutoAnswer(), LabelAnswer()):
        answers = resolve_answers(spec, rows)
        assert (answers.kind, answers.labels) == ("label", ("refund", "delay"))
        assert answers.parse("For some reason. Answer: delay", rows[0].query) == "delay"


def test_room_is_left_for_reasoning_that_is_longer_than_any_labeled_one(lab):
    bare = tuple(example(f"l-{i}", f"q{i}", ("red", "blue")[i % 2]) for i in range(4))
    reasoned = tuple(replace(row, response=f"it is painted so. Answer: {row.response}") for row in bare)
    for rows, spare in ((bare, lambda longest: 1), (reasoned, lambda longest: longest // 2 + 1)):
        task = make_task(lab, JobSpec(answer=LabelAnswer(labels=("red", "blue"))), Split(rows, queries("u", 2), bare))
        longest = max(len(lab.encode_response(row.response)) for row in rows)
        assert task.max_new_tokens == longest + spare(longest)


def test_texts_whose_labeled_rows_all_mark_the_answer_need_the_mark_in_votes_but_not_in_golds():
    rows = [example(f"l-{i}", f"q{i}", f"Reason number {i}.\nAnswer: city {i} of them") for i in range(6)]
    answers = resolve_answers(AutoAnswer(), rows)
    assert (answers.kind, answers.marked) == ("text", True)
    assert answers.parse("France has one.\nAnswer: Paris.", rows[0].query) == "paris"
    assert answers.parse("France has", rows[0].query) is None
    assert answers.parse("France has one.\nAnswer:", rows[0].query) is None
    assert answers.gold("Paris", rows[0].query) == "paris"
    cut = said(("France has", 0.1), ("France has", 0.1), answers=answers)
    assert agree([cut], answers, "mean").settled == ()


# --- texts by meaning -------------------------------------------------------------------------------------------------

SAYING = "Light becomes sugar.\nAnswer: The mitochondria produce energy."
SO = "Think of cells.\nAnswer: energy is produced by the mitochondria"


def test_paraphrases_agree_by_meaning_and_not_by_match(lab):
    ballot = said((SAYING, 0.5), (SO, 0.3), (SAYING, 0.4), answers=Answers("text"))
    by_meaning = resolve_answers(TextAnswer(), ())
    meaning = meaning_of(lab.embed, by_meaning, [ballot])
    settled = agree([ballot], by_meaning, "mean", meaning=meaning).settled[0]
    assert (settled.response, settled.answer, settled.agreement) == (SO, "energy is produced by the mitochondria", 1.0)
    assert settled.mean_nll == pytest.approx(0.4)
    by_match = resolve_answers(TextAnswer(agree_by="match"), ())
    assert meaning_of(lab.embed, by_match, [ballot]) is None
    assert agree([ballot], by_match, "mean").disputed == (ballot,)
    assert agree([ballot], by_meaning, "mean").disputed == (ballot,)  # without embeddings: by match alone


@pytest.mark.parametrize("resolver", ["vote", "weighted_vote"])
def test_the_larger_cluster_wins_and_unreadable_votes_are_in_none(lab, resolver):
    answers = resolve_answers(TextAnswer(), ())
    ballot = said((SAYING, 0.5), (SO, 0.3), ("yes", 0.9), ("no", 0.8), ("", 0.1), ("...", 0.1), answers=answers)
    meaning = meaning_of(lab.embed, answers, [ballot])
    voted = VOTE_RESOLVERS[resolver](ballot, answers, "mean", meaning=meaning)
    assert (voted.response, voted.agreement) == (SO, pytest.approx(2 / 6))
    groups = answers.group([vote.answer for vote in ballot.votes], meaning)
    assert [members for _, members in groups] == [[0, 1], [2], [3]]
    empty = said(("", 0.1), ("", 0.1), answers=answers)
    assert agree([empty], answers, "mean", meaning=meaning_of(lab.embed, answers, [empty])).settled == ()


@pytest.mark.parametrize(("first", "second"), [("yes", "no"), ("12 May", "13 May"), ("It works", "It does not work")])
def test_the_classic_traps_stay_disputed(lab, first, second):
    answers = replace(resolve_answers(TextAnswer(), ()), min_similarity=0.0)
    ballot = said((first, 0.1), (second, 0.1), answers=answers)
    assert agree([ballot], answers, "mean", meaning=meaning_of(lab.embed, answers, [ballot])).settled == ()


def test_a_justification_in_other_words_supports_the_vote_it_means(lab):
    answers = resolve_answers(TextAnswer(), ())
    ballot = said((SAYING, 0.5), ("Answer: the nucleus stores dna", 0.2), answers=answers)
    scripted = ScriptedLab(lab, "The first.\nAnswer: Energy is produced by the mitochondria")
    asked = {"u-1": query("u-1", "What do they do?")}
    (decided,) = justify(scripted, None, [ballot], asked, answers, system=None, max_length=99, max_new_tokens=9, seed=1)
    assert (decided.response, decided.answer, decided.agreement) == (SAYING, "the mitochondria produce energy", 0.5)


def test_with_share_the_confidence_of_a_text_is_its_clusters_share_and_mean_nll_however_it_was_settled(lab):
    answers = resolve_answers(TextAnswer(), ())
    ballot = said((SAYING, 0.5), ("Answer: energy is produced by the mitochondria", 0.3), ("dna", 0.1), answers=answers)
    scripted, asked = ScriptedLab(lab, SAYING), {"u-1": query("u-1", "What do they do?")}
    meaning = meaning_of(lab.embed, answers, [ballot])
    voted, decided = {}, {}
    for confidence in ("mean", "share"):
        voted[confidence] = by_majority(ballot, answers, confidence, meaning=meaning)
        (decided[confidence],) = justify(
            scripted, None, [ballot], asked, answers,
            system=None, max_length=99, max_new_tokens=9, seed=1, confidence=confidence,
        )  # fmt: skip
    assert voted["mean"].agreement == decided["mean"].agreement == pytest.approx(2 / 3)
    assert voted["mean"].mean_nll == pytest.approx(0.4)
    for found in (voted, decided):
        assert found["share"].mean_nll == pytest.approx(found["mean"].mean_nll + math.log(3 / 2))


def test_held_out_answers_and_golds_are_compared_by_the_same_meaning(lab):
    held_out = tuple(example(f"t-{i}", f"q{i}", "The mitochondria produce energy") for i in range(3))
    labeled = tuple(
        example(f"l-{i}", f"r{i}", text) for i, text in enumerate(("energy is produced by the mitochondria", "dna"))
    )
    said_now = SimpleNamespace(
        generate=lambda prompts, **_: [
            Generated(text, 0.5, 3)
            for text in ("Energy is produced by the mitochondria.", "DNA", "the mitochondria produce energy")
        ]
    )
    near = Neighbours({e.id: ("l-0", "l-1") for e in held_out}, {e.id: (0.9, 0.2) for e in held_out})
    found = {}
    for agree_by in ("meaning", "match"):
        spec = JobSpec(answer=TextAnswer(agree_by=agree_by), propagation={"k": 2})
        task = make_task(lab, spec, Split(labeled, queries("u", 2), held_out))
        made = predictions_of(task, said_now, task.split.held_out, None)
        found[agree_by] = [p.correct for p in made]
        found[f"knn {agree_by}"] = [p.correct for p in evaluate_knn(task, task.split.held_out, near)]
        labels = [SimpleNamespace(query_id="u-1", pseudo_label=p.answer) for p in made]
        found[f"report {agree_by}"] = rights(task, labels, {"u-1": "the mitochondria produce energy"})
    assert found["meaning"] == found["report meaning"] == [True, False, True]
    assert found["match"] == found["report match"] == [False, False, True]
    assert (found["knn meaning"], found["knn match"]) == ([True] * 3, [False] * 3)


def test_neighbours_that_mean_the_same_vote_together(lab):
    texts = ("the nucleus stores dna", "the mitochondria produce energy", "energy is produced by the mitochondria")
    labeled = {f"l-{i}": example(f"l-{i}", f"r{i}", text) for i, text in enumerate(texts)}
    near = Neighbours({"q": tuple(labeled)}, {"q": (0.5, 0.4, 0.3)})
    answers = resolve_answers(TextAnswer(), ())
    meaning = answers.meaning(lab.embed, [texts])
    assert knn_vote(near, query("q", "?"), labeled, answers, 3)[0] == texts[0]
    assert knn_vote(near, query("q", "?"), labeled, answers, 3, meaning)[0] == texts[1]


@pytest.mark.parametrize("resolver", ["vote", "justify"])
def test_a_whole_job_on_free_text_embeds_outside_the_generations_and_repeats_itself(lab, split, monkeypatch, resolver):
    embedded: list[Sequence[str]] = []
    original = type(lab).embed

    def spy(self, texts):
        embedded.append(list(texts))
        return original(self, texts)

    monkeypatch.setattr(type(lab), "embed", spy)
    spec = JobSpec.model_validate(
        {
            "answer": {"kind": "text"},
            "hyperparameters": {"learning_rate": 0.03, "batch_size": 8},
            "warmup": {"n_epochs": 3},
            "evolve": {"n_epochs": 1},
            "selection": {"strategy": "all"},
            "propagation": {"k": 2},
            "resolve": {"resolver": resolver},
            "evaluation": {"baselines": False, "with_neighbours": False},
        }
    )
    outcomes = []
    for _ in range(2):
        keep = MemoryKeep(chunk_size=4)
        outcomes.append(run_job(spec, split, lab=lab, keep=keep, gold={q.id: "red" for q in split.unlabeled}))
    assert outcomes[0].report.body["task"]["answer"] == "text"
    assert outcomes[0].adapter.sha256 == outcomes[1].adapter.sha256
    samples = keep.stored["round-1/select"].samples
    votes = {vote.answer for sample in samples for vote in sample.votes if vote.answer}
    assert votes & {text for call in embedded for text in call}
    for sample in samples:
        assert sample.pseudo_label is None or sample.pseudo_label in {vote.answer for vote in sample.votes}


# --- the spec ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"kind": "text", "min_similarity": 1.5}, "min_similarity"),
        ({"kind": "text", "agree_by": "feeling"}, "agree_by"),
        ({"kind": "number", "relative_tolerance": 1.0}, "relative_tolerance"),
        ({"kind": "number", "tolerance": -1.0}, "tolerance"),
        ({"kind": "number", "min_similarity": 0.5}, "min_similarity"),
    ],
)
def test_a_wrong_answer_spec_is_refused_by_the_name_of_its_field(answer, field):
    with pytest.raises(SpecError) as caught:
        load_spec({"answer": answer})
    assert caught.value.param.startswith("answer.")
    assert caught.value.param.endswith(field)


def test_the_spec_reaches_the_answers():
    found = resolve_answers(NumberAnswer(tolerance=0.5, relative_tolerance=0.01), ())
    assert (found.tolerance, found.relative_tolerance, found.marked) == (0.5, 0.01, False)
    assert resolve_answers(TextAnswer(min_similarity=0.9), ()).min_similarity == 0.9
    assert resolve_answers(TextAnswer(agree_by="match"), ()).min_similarity is None
    rows = [example(f"l-{i}", f"q{i}", f"a long answer number {i} " * 9) for i in range(6)]
    assert resolve_answers(AutoAnswer(), rows) == Answers("text", min_similarity=TextAnswer().min_similarity)
    assert np.isclose(TextAnswer().min_similarity, 0.85)
