"""`python -m resnetrt.cli`: the command line without its script."""

from resnetrt.cli import main

main()
