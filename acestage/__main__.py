"""`python -m acestage`."""

from acestage.cli import main

main()
