"""The engine client against a real HTTP server that fails on demand: every request is answered exactly once, or none is."""

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.engine_stub import EngineStub, colour, engine_stub, mean_nll
from worker.semisup.data import Message
from worker.semisup.engines import client
from worker.semisup.engines.client import Engine
from worker.semisup.engines.endpoint import Endpoint
from worker.semisup.engines.reply import Fault, NoLogprobs, Reply, read_reply
from worker.semisup.errors import EngineAway, EngineNotFound, EngineRefused, SpecError, Stopped
from worker.semisup.outside import open_outside

KEY = "sk-very-secret"
PASSING = (
    *("limited", "broken", "slow", "dripping", "half", "cut", "short", "aborted", "reset", "choiceless", "other_json"),
    "not_finite",
)
ENDLESS = {"slow", "dripping"}  # only a deadline ends these; every other test's is one that no busy machine reaches


def no_tick(_step: int, _total: int) -> None: ...


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client, "LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(client, "TICK_SECONDS", 0.02)


@pytest.fixture
def stub() -> Iterator[EngineStub]:
    with engine_stub() as made:
        yield made


Connect = Callable[..., Engine]


@pytest.fixture
def connect(stub: EngineStub) -> Iterator[Connect]:
    """`connect(retries=1)`: an engine on the stub; closed at the end."""
    with ExitStack() as until_the_end:

        def make(**values: object) -> Engine:
            given = {"url": stub.url, "model": "big", "api_key": KEY, "timeout_s": 60, **values}
            engine = Engine("remote", Endpoint.model_validate(given))
            until_the_end.callback(engine.close)
            return engine

        yield make


def ask(engine: Engine, count: int = 12, tick: Callable[[int, int], None] = no_tick, **values: object) -> list[Reply]:
    questions = [(Message("user", f"item {i} is painted {('red', 'blue')[i % 2]}"),) for i in range(count)]
    seeds = [2**62 + i for i in range(count)]
    sampling = {"temperature": 1.0, "max_new_tokens": 4, **values}
    return engine.generate(questions, seeds=seeds, tick=tick, **sampling)  # type: ignore[arg-type]


RIGHT = [Reply(word, pytest.approx(mean_nll(word)), 2) for _ in range(6) for word in ("red", "blue")]


def test_replies_come_back_in_order_with_the_mean_log_prob_of_their_tokens(stub, connect):
    engine = connect(max_concurrency=3)
    assert ask(engine) == RIGHT
    assert RIGHT[0].mean_nll == pytest.approx((0.3 + 0.1) / 2)  # the end token is one of those returned
    sent = stub.asked[0]
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert {**sent.body, "messages": None, "seed": None} == {
        "model": "big", "messages": None, "temperature": 1.0, "max_tokens": 4, "seed": None, "stream": False, "logprobs": True
    }  # fmt: skip
    assert sorted(a.body["seed"] for a in stub.asked) == list(range(12))  # 31 bits of ours
    assert stub.busiest <= 3
    before = stub.connections
    assert before <= 3
    ask(engine)
    assert stub.connections == before, "a second chunk goes out on the connections of the first"


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_no_sample_and_changes_none(stub, connect, fault):
    stub.fail(fault, None, fault, fault, None)
    engine = connect(max_concurrency=4, timeout_s=0.5 if fault in ENDLESS else 60)
    assert ask(engine) == RIGHT
    assert engine.answered == len(set(stub.answered)) == 12
    if fault in ENDLESS and engine.faults > 3:
        return  # a machine that stood still for half a second: good answers were late too, and asked for again
    assert engine.faults == 3
    assert set(Counter(stub.answered).values()) == {1}, "nothing is asked again after a good answer"


def test_all_faults_at_once_end_with_the_same_replies(stub, connect):
    stub.fail(*(fault for fault in PASSING for _ in range(2)))
    assert ask(connect(retries=100, timeout_s=0.5)) == RIGHT


@pytest.mark.parametrize("after", ["0.4", "soon"])
def test_retry_after_is_heeded_where_it_can_be_read(stub, connect, after):
    stub.fail("limited")
    stub.retry_after = after
    ask(connect(), count=1)
    waited = stub.asked[1].at - stub.asked[0].at
    assert waited >= (0.4 if after == "0.4" else 0.0)


def test_retry_after_may_be_a_date():
    assert client._retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert client._retry_after("Wed, 21 Oct 2115 07:28:00 GMT") > 1e9
    assert client._retry_after(None) is None


def test_a_wait_longer_than_our_patience_is_not_begun(stub, connect):
    stub.fail("limited")
    stub.retry_after = "86400"
    with pytest.raises(EngineAway, match=r"'remote' gives no whole answer: no answer for 300 s; .*429: slow down") as caught:
        ask(connect(), count=1)
    assert caught.value.again
    assert caught.value.code == "engine_unavailable"


def test_retries_are_counted_per_request(stub, connect):
    stub.fail(*["broken"] * 3)
    with pytest.raises(EngineAway, match="3 requests failed; the last fault: status 500: out of GPUs"):
        ask(connect(retries=2), count=1)
    assert len(stub.asked) == 3


def test_patience_is_for_the_whole_chunk(stub, connect):
    stub.fail(*["broken"] * 10_000)
    engine = connect(patience_s=0.3, retries=100, max_concurrency=2)
    with pytest.raises(EngineAway, match=r"no answer for 0\.3 s"):
        ask(engine)
    assert 1 <= len({a.body["seed"] for a in stub.asked}) <= 2, "requests that had not begun never went out"
    patience = client.Patience(seconds=10, retries=5, failing_since=time.monotonic() - 20)
    assert patience.pause(Fault("x"), 0) is None
    patience = client.Patience(seconds=10, retries=5)
    assert patience.pause(Fault("x", after=2.0), 0) == pytest.approx(2.0, abs=0.02)


def test_every_answer_makes_patience_whole_again(stub, connect):
    """Six faults of 0.1 s and more each, where 0.5 s without an answer are too many; in between it answers."""
    stub.fail(*["limited", None] * 6)
    stub.retry_after = "0.1"
    engine = connect(patience_s=0.5, retries=1, max_concurrency=1)
    began = time.monotonic()
    assert ask(engine) == RIGHT
    assert time.monotonic() - began > 0.5
    patience = client.Patience(seconds=10, retries=5, spent=True)
    assert patience.pause(Fault("x"), 0) is None
    patience.answered()
    assert patience.pause(Fault("x"), 0) is not None


def test_an_engine_that_is_back_is_borne_with_as_before(stub, connect):
    """One fault amid good answers costs a pause, not the votes of the rest of the chunk."""
    engine = connect(patience_s=60, retries=5, max_concurrency=2)
    engine._down = True
    stub.fail(None, None, "limited")
    assert ask(engine, optional=True) == RIGHT


def test_an_engine_nobody_listens_at_is_away(connect):
    with pytest.raises(EngineAway, match="ConnectError"):
        ask(connect(url="http://127.0.0.1:9/v1", retries=1))


def test_an_optional_engine_that_stays_away_leaves_replies_with_the_reason_and_is_asked_little_until_it_is_back(stub, connect):
    stub.fail(*["broken"] * 10_000)
    engine = connect(patience_s=0.2, retries=100, max_concurrency=2)
    replies = ask(engine, optional=True)
    assert {(r.text, r.mean_nll, r.tokens) for r in replies} == {("", None, 0)}
    assert all(r.error and r.error.startswith("engine remote: no answer for 0.2 s") for r in replies)
    before = len(stub.asked)
    assert all(r.error for r in ask(engine, optional=True))
    assert len(stub.asked) - before <= 2, "one try, in as many places as are open"
    stub.faults.clear()
    assert ask(engine, optional=True) == RIGHT
    engine.endpoint = engine.endpoint.model_copy(update={"patience_s": 60.0})  # what comes next is not about how much
    stub.fail("broken", "broken")
    assert ask(engine, optional=True) == RIGHT, "its patience is back as well"


@pytest.mark.parametrize(
    ("fault", "says", "code"),
    [
        ("unauthorised", r"'remote' refused: status 401: wrong key Bearer \*\*\* ask Ann", "engine_refused"),
        ("moved", "status 307", "engine_refused"),
        ("huge", "more than 8388608 bytes", "engine_refused"),
        ("no_logprobs", "no log-probs", "engine_no_logprobs"),
    ],
)
@pytest.mark.parametrize("optional", [False, True])
def test_a_refusal_is_final_names_the_engine_and_hides_the_key(stub, connect, fault, says, code, optional):
    stub.fail(fault)
    with pytest.raises(EngineRefused, match=says) as caught:
        ask(connect(max_concurrency=1, timeout_s=30), optional=optional)  # eight megabytes take their time on a busy machine
    assert caught.value.code == code
    assert caught.value.hint
    assert not caught.value.again
    assert KEY not in f"{caught.value}{caught.value.__dict__}"
    assert len(stub.asked) == 1, "not asked again, nor anything else"


def test_a_row_that_an_optional_engine_refuses_costs_that_vote_and_no_other(stub, connect):
    stub.fail("too_long", None, None, "too_long")
    replies = ask(connect(max_concurrency=1), optional=True)
    gone = [i for i, reply in enumerate(replies) if reply.error]
    assert gone == [0, 3]
    assert [r for r in replies if not r.error] == [r for i, r in enumerate(RIGHT) if i not in gone]
    assert replies[0].error == "engine remote refused: status 400: prompt has 5000 tokens, this model reads 4096"
    assert len(stub.asked) == 12, "what is refused is not asked again"


@pytest.mark.parametrize(("optional", "asked"), [(False, 1), (True, 12)])
def test_an_engine_that_refuses_every_row_fails_the_job_and_so_does_one_row_of_a_required_engine(
    stub, connect, optional, asked
):
    stub.fail(*["too_long"] * 12)
    with pytest.raises(EngineRefused, match=r"'remote' refused: status 400: prompt has 5000 tokens"):
        ask(connect(max_concurrency=1), optional=optional)
    assert len(stub.asked) == asked


def test_a_log_prob_that_the_server_does_not_have_is_left_out_of_the_mean(stub, connect):
    stub.fail("missing")
    [reply] = ask(connect(), count=1)
    assert reply == Reply("red", pytest.approx(0.1), 2)


def test_a_wrong_path_is_refused_in_the_servers_words(stub, connect):
    with pytest.raises(EngineRefused, match="status 404: no route /v2/chat/completions"):
        ask(connect(url=stub.url.replace("v1", "v2")), count=1)


def test_without_log_probs_by_the_operators_word_replies_are_not_scored(stub, connect):
    engine = connect(logprobs=False)
    assert ask(engine) == [Reply(reply.text, None, 2) for reply in RIGHT]
    assert stub.asked[0].body["logprobs"] is False


def test_what_tick_raises_ends_the_wait_at_once_and_the_engine_can_be_asked_again(stub, connect):
    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise Stopped("cancelled")

    seen: list[tuple[int, int]] = []
    stub.seconds = 200
    engine = connect(timeout_s=300)
    began = time.monotonic()
    with pytest.raises(Stopped):
        ask(engine, tick=stop)
    assert time.monotonic() - began < 60  # the promise is to the user, not a measurement
    assert seen == [(0, 12)]
    stub.seconds = 0
    assert ask(engine) == RIGHT


def test_ticks_come_while_nothing_else_does(stub, connect):
    seen: list[tuple[int, int]] = []
    two = threading.Event()

    def tick(done: int, total: int) -> None:
        seen.append((done, total))
        if seen.count((0, 1)) == 2:
            two.set()

    stub.say = lambda messages, seed: colour(messages, seed) if two.wait(50) else "no tick came"
    [reply] = ask(connect(), count=1, tick=tick)
    assert reply.text == "red"
    assert seen.count((0, 1)) >= 2
    assert seen[-1] == (1, 1)


def test_text_that_no_file_could_hold_is_mended(stub, connect):
    stub.fail("surrogate")
    [reply] = ask(connect(), count=1)
    assert reply.text == "red ?"


def test_a_retry_is_logged_without_the_key(stub, connect, caplog):
    stub.fail("broken")
    with caplog.at_level(logging.DEBUG):
        ask(connect(), count=1)
    assert "engine remote: status 500: out of GPUs; asked again in" in caplog.text
    assert KEY not in caplog.text


# --- one body at a time ----------------------------------------------------------------------------------------------


def body(finish: str | None = "stop", tokens: int = 2, **message: object) -> bytes:
    content = [{"logprob": -0.5}] * tokens
    choice = {"message": {"content": "red", **message}, "finish_reason": finish, "logprobs": {"content": content}}
    return json.dumps({"choices": [choice]}).encode()


def test_an_answer_cut_at_the_tokens_that_were_asked_for_is_whole_and_one_cut_earlier_is_half():
    assert read_reply(body("length", tokens=4), logprobs=True, max_tokens=4) == Reply("red", 0.5, 4)
    with pytest.raises(Fault, match="after 2 of 4 tokens"):
        read_reply(body("length", tokens=2), logprobs=True, max_tokens=4)


def test_an_empty_answer_is_an_answer_without_a_score():
    assert read_reply(body(tokens=0, content=None), logprobs=True, max_tokens=4) == Reply("", None, 0)
    with pytest.raises(NoLogprobs):
        read_reply(body(tokens=0), logprobs=True, max_tokens=4)


def test_a_reply_without_any_known_log_prob_is_not_scored():
    content = [{"logprob": -9999.0}] * 2
    choice = {"message": {"content": "red"}, "finish_reason": "stop", "logprobs": {"content": content}}
    raw = json.dumps({"choices": [choice]}).encode()
    assert read_reply(raw, logprobs=True, max_tokens=4) == Reply("red", None, 2)


def test_a_text_was_generated_even_where_the_server_counts_no_tokens():
    """0 tokens is what a vote has that no LM generated, and that is no pseudo-response to train on."""
    assert read_reply(body(tokens=0), logprobs=False, max_tokens=4).tokens == 1


@pytest.mark.parametrize(
    "raw", [b"", b"\xff", b"null", b'{"choices":null}', b'{"choices":[{}]}', body(content=["red"]), b"[" * 100_000]
)
def test_whatever_a_server_sends_is_a_reply_or_a_fault(raw):
    with pytest.raises(Fault):
        read_reply(raw, logprobs=True, max_tokens=4)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "10.0.0.1:80", "http://", "http://user:pw@host/v1", "http://host/v1?key=1"]
)
def test_only_plain_http_addresses_are_engines_and_a_refusal_does_not_echo_them(url):
    with pytest.raises(SpecError, match=r"engines\.big") as caught:
        open_outside({"engines": {"big": {"url": url, "model": "m", "api_key": KEY}}})
    assert KEY not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_name_that_is_not_there_is_refused_with_those_that_are(stub):
    with open_outside({"engines": {"big": {"url": stub.url, "model": "m", "api_key": KEY}}}) as outside:
        assert outside.engine("big").name == "big"
        with pytest.raises(EngineNotFound, match="no engine 'bog' here; there is: big") as caught:
            outside.engine("bog")
        assert caught.value.code == "unknown_engine"
        assert KEY not in repr(outside)
        assert KEY not in repr(outside.engine("big").endpoint)


@pytest.mark.parametrize("key", ["", "two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(key):
    with pytest.raises(SpecError, match="printable ASCII") as caught:
        open_outside({"engines": {"big": {"url": "http://host/v1", "model": "m", "api_key": key}}})
    assert not key or key not in str(caught.value)
