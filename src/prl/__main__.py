"""`python -m prl`, the same as the command `prl`."""

import sys

from prl.cli import main

sys.exit(main())
