"""The folder broker under writers and readers at the same time. kombu's own transport fails each of these."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import ChannelError

from models.settings import settings
from tests.conftest import Stack
from worker.app import celery, publish, transport_options
from worker.folder_broker import Channel

QUEUE = "some.queue"
MANY = 200
LARGE = "x" * 20_000_000  # takes milliseconds to write; readers look every few microseconds


@pytest.fixture
def channels(tmp_path: Path) -> Iterator[Callable[[], Channel]]:
    """Channels on one folder, each with a connection of its own, as processes have."""
    options = {name: str(tmp_path / name[:4]) for name in ("data_folder_in", "data_folder_out", "control_folder")}
    (tmp_path / "data").mkdir()
    connections: list[Connection] = []

    def opened() -> Channel:
        connections.append(Connection("filesystem://", transport_options=options))
        channel = connections[-1].channel()
        assert isinstance(channel, Channel)
        return channel

    yield opened
    for connection in connections:
        connection.release()


def received(channel: Channel, done: Callable[[], bool]) -> list[Any]:
    found = []
    while True:
        last_look = done()
        try:
            found.append(channel._get(QUEUE))
        except Empty:
            if last_look:
                return found


def test_a_reader_gets_the_whole_message_or_none(channels: Callable[[], Channel]) -> None:
    writer, reader = channels(), channels()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(writer._put, QUEUE, {"body": LARGE})
        assert received(reader, written.done) == [{"body": LARGE}]


def test_every_message_goes_to_one_of_many_readers_and_nothing_is_left(
    channels: Callable[[], Channel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "no such folder"))
    writers, readers = [channels() for _ in range(2)], [channels() for _ in range(3)]
    with ThreadPoolExecutor(5) as pool:
        written = [
            pool.submit(lambda w=w, n=n: [w._put(QUEUE, {"n": i}) for i in range(n, MANY, 2)]) for n, w in enumerate(writers)
        ]
        read = [pool.submit(received, r, lambda: all(future.done() for future in written)) for r in readers]
        found = [message["n"] for future in read for message in future.result()]
    assert sorted(found) == list(range(MANY))
    assert list((tmp_path / "data").iterdir()) == []


def test_the_oldest_message_of_the_queue_that_was_asked_for_comes_first(
    channels: Callable[[], Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = channels()
    for second in (9, 10, 11):
        monkeypatch.setattr("time.monotonic", lambda second=second: second + 100)
        channel._put(QUEUE, second)
        channel._put("other", -second)
    assert [channel._get(QUEUE), channel._get(QUEUE), channel._get("other")] == [9, 10, -9]
    assert (channel._size(QUEUE), channel._purge("other")) == (1, 2)


def test_queues_that_are_bound_at_the_same_moment_are_all_in_the_table(channels: Callable[[], Channel]) -> None:
    both = [channels(), channels()]
    together = threading.Barrier(2)

    def bind(channel: Channel, queue: str) -> None:
        for number in range(MANY):
            together.wait(60)
            channel._queue_bind(f"exchange-{number}", "key", "", queue)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(bind, channel, f"queue-{n}") for n, channel in enumerate(both)]:
            future.result()
    for number in range(MANY):
        assert {row.queue for row in both[0].get_table(f"exchange-{number}")} == {"queue-0", "queue-1"}


def test_a_message_that_cannot_be_written_is_an_error_and_leaves_nothing(
    channels: Callable[[], Channel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    channel = channels()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ChannelError, match="No space left on device"):
        channel._put(QUEUE, {})
    assert list((tmp_path / "data").iterdir()) == []


def test_the_service_rings_through_it(embedded: Stack) -> None:
    publish(["ftjob-a"])
    (message,) = (settings().data_dir / "broker" / "queue").iterdir()
    assert json.loads(message.read_text())["headers"]["argsrepr"] == "['ftjob-a']"
    with celery.connection_for_read(settings().broker, transport_options=transport_options(settings())) as connection:
        assert isinstance(connection.default_channel, Channel)
