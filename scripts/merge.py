"""Merge what was inferred about windows of a recording. See ``python scripts/merge.py --help``."""

import sys

from lfads_torch.cli.merge import main

if __name__ == "__main__":
    sys.exit(main())
