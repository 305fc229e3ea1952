"""The wire calls them models: base language models and finished adapters."""
