"""The real API, and with a bug when CHAOS_BUG names one: `uvicorn --factory tests.chaos.app:create_app`."""

from tests.chaos.planted import plant

plant()

from api.main import create_app  # noqa: E402

__all__ = ["create_app"]
