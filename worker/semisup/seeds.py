"""Randomness is derived, never drawn from the clock: the same job, stage and sample give the same seed on every machine."""

import hashlib


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed from the job's seed and what it is for, e.g. derive_seed(42, "propagate", "u-000017", "a")."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
