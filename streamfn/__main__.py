"""`python -m streamfn`: the command line."""

from streamfn.cli import main

main()
