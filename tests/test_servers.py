import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from tests import servers


def test_servers_of_our_own_are_started_where_none_is_found_and_stopped_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (servers.DATABASE_VARIABLE, servers.REDIS_VARIABLE):
        monkeypatch.delenv(variable)
    monkeypatch.setattr(servers, "_local_postgres", lambda: None)
    monkeypatch.setattr(servers, "_local_redis", lambda: None)
    if not (servers._binary("initdb") and servers._binary("redis-server")):
        pytest.skip("no initdb or redis-server on this machine: its servers were given by URL")
    found = servers.find()
    try:
        with servers.own_database(found.database_url) as url:
            assert make_url(url).port != 5432
        with servers.own_prefix(found.redis_url) as prefix, redis.Redis.from_url(found.redis_url) as client:
            client.set(prefix + "key", "1")
            client.set("somebody else's", "1")
        with redis.Redis.from_url(found.redis_url) as client:
            assert client.keys() == [b"somebody else's"]
    finally:
        found.stop()
    with pytest.raises(psycopg.OperationalError), servers.own_database(found.database_url):
        pass


def test_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(servers.DATABASE_VARIABLE)
    monkeypatch.setattr(servers, "_local_postgres", lambda: None)
    monkeypatch.setattr(servers, "_binary", lambda name: None)
    with pytest.raises(servers.ServersMissing, match=r"^Tests need PostgreSQL and Redis: set .*Missing: PostgreSQL\.$"):
        servers.find()
