"""`python -m streamfn`: the command line."""

import os
import sys

# `python -m` searches the working directory first: a module of the user's there must not take the place of one of ours.
if sys.path and sys.path[0] == os.getcwd():
    del sys.path[0]

from streamfn.cli import main

sys.exit(main())
