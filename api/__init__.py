"""HTTP in, rows and blobs out. Torch is never imported here, not even indirectly."""

VERSION = "0.1.0"
