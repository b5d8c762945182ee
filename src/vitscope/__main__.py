"""`python -m vitscope` is `vitscope`."""

from vitscope.cli import main

main()
