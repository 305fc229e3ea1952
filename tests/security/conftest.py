"""The service in-process, as the API's tests have it."""

from tests.api.conftest import app as app
