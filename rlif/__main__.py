"""`python -m rlif`: the command line, for launchers that start modules."""

from rlif.cli import main

main()
