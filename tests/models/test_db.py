"""How long anybody waits for PostgreSQL: requests for locks and statements, and everybody for one that is gone."""

import os
import socket
from collections.abc import Callable

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from models.db import EVERYONE, engine, silence_bounds, transaction

LOCKED, TOO_LONG = "55P03", "57014"  # SQLSTATEs


def test_a_request_waits_for_a_lock_only_so_long(postgresql: str, configure: Callable[..., None]) -> None:
    configure(request_lock_seconds=0.3)
    with psycopg.connect(make_url(postgresql).set(drivername="postgresql").render_as_string(hide_password=False)) as other:
        other.execute("lock table jobs in access exclusive mode")
        for tenant in ("somebody", EVERYONE):
            with pytest.raises(OperationalError) as caught, transaction(tenant=tenant) as session:
                session.execute(text("select count(*) from jobs"))
            assert getattr(caught.value.orig, "sqlstate", None) == LOCKED
    with transaction(tenant="somebody") as session:
        assert session.execute(text("select count(*) from jobs")).scalar() == 0, "the connection is of use again"


def test_a_statement_of_a_request_takes_only_so_long(postgresql: str, configure: Callable[..., None]) -> None:
    configure(request_statement_seconds=0.3)
    with pytest.raises(OperationalError) as caught, transaction(tenant="somebody") as session:
        session.execute(text("select pg_sleep(60)"))
    assert getattr(caught.value.orig, "sqlstate", None) == TOO_LONG


def test_a_worker_waits_as_long_as_it_takes_also_on_a_connection_that_served_a_request(
    postgresql: str, configure: Callable[..., None]
) -> None:
    configure(request_lock_seconds=4)
    with transaction(tenant="somebody") as session:
        asked = session.execute(text("select pg_backend_pid()")).scalar()
        assert session.execute(text("show lock_timeout")).scalar() == "4s"
    with transaction() as session:
        assert session.execute(text("select pg_backend_pid()")).scalar() == asked
        bounds = [session.execute(text(f"show {name}")).scalar() for name in ("lock_timeout", "statement_timeout")]
    assert bounds == ["0", "0"]


def test_a_connection_whose_other_end_is_gone_is_given_up_by_the_kernel(
    postgresql: str, configure: Callable[..., None]
) -> None:
    """No test drops packets; that the kernel was told what to do is asked of the socket itself."""
    configure(database_silence_seconds=12)
    with engine().connect() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        with socket.socket(fileno=os.dup(raw.pgconn.socket)) as copy:
            told = {
                name: copy.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            }
            assert copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert told == {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12000}


@pytest.mark.parametrize("seconds", [3, 5, 15, 60, 3600])
def test_the_probes_are_over_within_the_silence(seconds: float) -> None:
    bounds = silence_bounds(seconds)
    assert bounds["keepalives_idle"] + bounds["keepalives_interval"] * bounds["keepalives_count"] <= max(seconds, 4)
    assert bounds["tcp_user_timeout"] == seconds * 1000
