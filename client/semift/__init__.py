"""Client of a Semift server. `Client` speaks HTTP; the command `semift` is a skin over it. No torch."""

from semift.client import Client
from semift.errors import ApiError, ChecksumMismatch, SemiftError, Unreachable

__version__ = "0.1.0"
__all__ = ["ApiError", "ChecksumMismatch", "Client", "SemiftError", "Unreachable", "__version__"]
