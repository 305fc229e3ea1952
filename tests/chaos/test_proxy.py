"""Each of the proxy's seven modes does what it says, to an echo server and to the real servers behind it."""

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from tests.chaos.proxy import ChaosProxy, parsed


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while piece := self.request.recv(65536):
                self.request.sendall(piece)


@pytest.fixture
def proxy() -> Iterator[ChaosProxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        with ChaosProxy("127.0.0.1", server.server_address[1]) as made:
            yield made
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def connected(proxy: ChaosProxy, timeout: float = 60.0) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout) as made:
        yield made


def echo(link: socket.socket, piece: bytes = b"hello") -> bytes:
    link.sendall(piece)
    return receive(link, len(piece))


def receive(link: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (piece := link.recv(65536)):
        found += piece
    return found


def answered(proxy: ChaosProxy) -> bytes:
    """Raises ConnectionError where nobody answers."""
    with connected(proxy) as link:
        if not (found := echo(link)):
            raise ConnectionAbortedError
        return found


def until_reset(link: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := link.recv(100):
            found += piece
        raise AssertionError("it ended without a reset")
    return found


def test_pass_passes_whole_and_both_ways(proxy: ChaosProxy) -> None:
    with connected(proxy) as link:
        assert echo(link) == b"hello"
        big = bytes(range(256)) * 4000
        threading.Thread(target=link.sendall, args=(big,)).start()
        assert receive(link, len(big)) == big
    assert proxy.connections == 1


def test_blackhole_says_nothing_and_what_it_held_back_arrives_afterwards(proxy: ChaosProxy) -> None:
    with connected(proxy) as link:
        assert echo(link) == b"hello"
        proxy.set("blackhole")
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            echo(link, b"lost?")
        with connected(proxy, timeout=0.3) as second, pytest.raises(TimeoutError):
            echo(second)
        proxy.set("pass")
        link.settimeout(60)
        assert receive(link, 5) == b"lost?"


def test_reset_ends_old_and_new_connections(proxy: ChaosProxy) -> None:
    with connected(proxy) as link:
        assert echo(link) == b"hello"
        proxy.set("reset")
        with pytest.raises(ConnectionResetError):
            link.recv(1)
        with pytest.raises(ConnectionError):
            answered(proxy)
    proxy.set("pass")
    with connected(proxy) as link:
        assert echo(link) == b"hello"


def test_refuse_lets_nobody_in_and_throws_everybody_out(proxy: ChaosProxy) -> None:
    with connected(proxy) as link:
        assert echo(link) == b"hello"
        proxy.set("refuse")
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    with pytest.raises(ConnectionRefusedError), connected(proxy):
        pass
    proxy.set("pass")
    with connected(proxy) as link:
        assert echo(link) == b"hello"


def test_delay_is_added_in_each_direction(proxy: ChaosProxy) -> None:
    proxy.set("delay:0.2")
    with connected(proxy) as link:
        began = time.monotonic()
        assert echo(link) == b"hello"
        assert time.monotonic() - began >= 0.4


def test_cut_ends_a_connection_after_that_many_bytes_of_both_directions(proxy: ChaosProxy) -> None:
    proxy.set("cut:8")
    with connected(proxy) as link:
        link.sendall(b"hello")
        assert until_reset(link) in (b"", b"h", b"he", b"hel"), "5 bytes there, 3 back; a reset may overtake them"
    with connected(proxy) as link:
        assert echo(link, b"abcd") == b"abcd", "every connection has its own count"


def test_slow_passes_that_many_bytes_a_second(proxy: ChaosProxy) -> None:
    proxy.set("slow:2000")
    with connected(proxy) as link:
        began = time.monotonic()
        assert echo(link, b"x" * 1000) == b"x" * 1000
        assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("mode", ["loud", "delay", "cut:0", "slow:x", "pass:3"])
def test_a_mode_there_is_not_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=r"unknown|number|float"):
        parsed(mode)


def test_postgresql_and_redis_speak_through_it(postgres_server: str, redis_server: str) -> None:
    database, broker = make_url(postgres_server), make_url(redis_server)
    with (
        ChaosProxy(database.host or "", database.port or 5432) as first,
        ChaosProxy(broker.host or "", broker.port or 6379) as second,
    ):
        plain = database.set(drivername="postgresql", host="127.0.0.1", port=first.port).render_as_string(hide_password=False)
        with psycopg.connect(plain, connect_timeout=60) as connection:
            assert connection.execute("select 7").fetchone() == (7,)
            first.set("reset")
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select 8")
        with redis.Redis(port=second.port, socket_timeout=60) as client:
            assert client.ping()
        second.set("blackhole")
        with redis.Redis(port=second.port, socket_timeout=0.3) as client, pytest.raises(redis.TimeoutError):
            client.ping()
