"""`python -m acestage`."""

from acestage.cli import main

# Python looks in the working folder then, and so must the services: a checkout need not be installed.
main(safe_path=False)
