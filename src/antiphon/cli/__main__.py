"""`python -m antiphon.cli` is the command `antiphon`."""

from antiphon.cli import main

main()
