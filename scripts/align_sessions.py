"""Align sessions that record different neurons. See ``python scripts/align_sessions.py --help``."""

import sys

from lfads_torch.cli.align_sessions import main

if __name__ == "__main__":
    sys.exit(main())
