"""Files: upload, validation, preview, content, deletion."""
