"""Generation by a server: OpenAI-compatible chat completions with log-probs. No torch, and no URL a job could choose."""
