"""`python -m semift` is the command `semift`."""

from semift.cli import main

main()
