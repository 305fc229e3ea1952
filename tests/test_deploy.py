"""docker-compose.yml and the Dockerfiles against the settings and the code, read as text: no engine is needed."""

import re
from pathlib import Path

import pytest
import yaml
from sqlalchemy.engine import make_url

from models.settings import Settings
from worker.app import WORKER_ARGS

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]
OURS = ("migrate", "api", "worker")


def test_the_services_are_those_of_the_scaled_set_up():
    assert set(SERVICES) == {"postgres", "redis", "migrate", "api", "worker"}


@pytest.mark.parametrize("service", OURS)
def test_every_variable_is_a_setting_and_the_settings_accept_it(service, monkeypatch, tmp_path):
    given = SERVICES[service]["environment"]
    assert {name.removeprefix("SEMIFT_").lower() for name in given} <= set(Settings.model_fields)
    monkeypatch.chdir(tmp_path)  # away from a developer's .env
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert make_url(settings.database).drivername == "postgresql+psycopg"
    assert settings.broker.startswith("redis://")
    assert settings.store.startswith("file://")


def test_hosts_in_the_urls_are_services_and_the_password_is_the_databases():
    url = make_url(SERVICES["api"]["environment"]["SEMIFT_DATABASE_URL"])
    script = COMPOSE["configs"]["plain-role"]["content"]
    role = re.search(r"create role (\w+) login password '(\w+)'", script).groups()
    database = re.search(r"create database (\w+) owner (\w+)", script).groups()
    assert (url.host, url.username, url.password, url.database) == ("postgres", *role, database[0])
    assert database[1] == role[0]


def test_the_service_is_no_superuser_of_its_database():
    """Row-level security does not hold superusers, and the image's POSTGRES_USER is one."""
    url = make_url(SERVICES["api"]["environment"]["SEMIFT_DATABASE_URL"])
    assert url.username != SERVICES["postgres"]["environment"].get("POSTGRES_USER", "postgres")
    assert "superuser" not in COMPOSE["configs"]["plain-role"]["content"]
    mounted = SERVICES["postgres"]["configs"]
    assert mounted == [{"source": "plain-role", "target": "/docker-entrypoint-initdb.d/semift.sql"}]
    assert make_url(SERVICES["api"]["environment"]["SEMIFT_BROKER_URL"]).host in SERVICES


def test_api_and_worker_share_blobs_and_see_the_same_three_urls():
    assert "data:/data" in SERVICES["api"]["volumes"]
    assert "data:/data" in SERVICES["worker"]["volumes"]
    for name in ("SEMIFT_DATABASE_URL", "SEMIFT_BROKER_URL", "SEMIFT_STORE_URL"):
        assert len({SERVICES[service]["environment"][name] for service in OURS}) == 1


def test_start_up_is_gated_by_health():
    assert all("healthcheck" in SERVICES[name] for name in ("postgres", "redis", "api", "worker"))
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        assert SERVICES[name]["depends_on"]["redis"]["condition"] == "service_healthy"


def test_the_workers_gpu_is_reserved_and_the_api_is_not_open_to_the_world():
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert all(port.startswith("127.0.0.1:") for port in SERVICES["api"]["ports"])


def test_the_health_checks_ask_routes_and_ports_that_exist():
    from api.main import create_app

    check = " ".join(SERVICES["api"]["healthcheck"]["test"])
    port, path = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", check).groups()
    assert path in create_app().openapi()["paths"]
    assert int(port) == Settings.model_fields["port"].default
    assert f"SEMIFT_PORT={port}\n" in (ROOT / "api" / "Dockerfile").read_text(encoding="utf-8")


def test_the_worker_image_starts_the_worker_as_the_embedded_server_does():
    text = (ROOT / "worker" / "Dockerfile").read_text(encoding="utf-8")
    command = yaml.safe_load(text[text.index("CMD [") + 4 :])
    assert command == ["python", "-m", "celery", *WORKER_ARGS]


def test_the_api_image_has_no_torch_and_no_image_runs_as_root():
    for folder in ("api", "worker"):
        text = (ROOT / folder / "Dockerfile").read_text(encoding="utf-8")
        assert re.search(r"^USER semift$", text, re.MULTILINE)
    api = (ROOT / "api" / "Dockerfile").read_text(encoding="utf-8")
    assert "worker.txt" not in api
    assert not re.search(r"^(torch|transformers|peft)", (ROOT / "requirements" / "api.txt").read_text(), re.MULTILINE)


def test_what_the_images_copy_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for folder in ("api", "worker"):
        text = (ROOT / folder / "Dockerfile").read_text(encoding="utf-8")
        for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
            assert (ROOT / source).exists()
            assert source.rstrip("/") not in ignored
