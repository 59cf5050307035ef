"""``python -m crumple``: the command line, for interpreters without the console script."""

import sys

from crumple.cli import main

sys.exit(main())
