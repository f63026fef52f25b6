"""Cut a continuous recording into overlapping windows. See ``python scripts/chop.py --help``."""

import sys

from lfads_torch.cli.chop import main

if __name__ == "__main__":
    sys.exit(main())
