"""Is it up, can it work, which version is it."""
