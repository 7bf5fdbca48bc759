"""`python -m rlif`: the command line, for launchers that start modules."""

from rlif.cli.main import main

main()
