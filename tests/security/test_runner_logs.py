"""A runner says in its log where it failed, and to its worker why; rows are in the second alone, which is for their owner."""

import pytest

from models import logs
from worker.runner import _tell_how_it_ends
from worker.semisup.errors import DataError


@pytest.mark.parametrize("problem", [DataError("label 'a row of data' is unknown"), KeyError("a row of data")])
def test_a_runner_that_fails_logs_no_row_and_tells_its_worker_why(problem: Exception, caplog: pytest.LogCaptureFixture) -> None:
    told: list[dict[str, object]] = []

    class Pipe:
        def tell(self, **message: object) -> None:
            told.append(message)

    def job() -> None:
        raise problem

    _tell_how_it_ends(Pipe(), None, job)  # type: ignore[arg-type]
    written = [logs.Lines("runner").format(record) for record in caplog.records]
    assert type(problem).__name__ in written[-1]
    assert "a row of data" not in "".join(written)
    assert told[-1]["tell"] == "failed"
