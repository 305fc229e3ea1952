"""Uploads in parts: OpenAI's Uploads, for files too large or lines too weak for one request."""
