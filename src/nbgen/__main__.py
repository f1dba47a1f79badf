"""Lets ``python -m nbgen`` run the command line."""

from nbgen.cli import main

main()
