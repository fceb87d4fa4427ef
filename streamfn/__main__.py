"""`python -m streamfn`: the command line."""

import sys

from streamfn.cli import main

sys.exit(main())
