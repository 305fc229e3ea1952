from collections.abc import Callable

import pytest


@pytest.fixture(autouse=True)
def leases_end_by_hand(configure: Callable[..., None]) -> None:
    """None runs out because a machine stands still, or because its processes need long to start: `let_lease_expire`."""
    configure(lease_seconds=3600)
