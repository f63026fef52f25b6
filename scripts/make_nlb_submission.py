"""Write rates for a benchmark. See ``python scripts/make_nlb_submission.py --help``."""

import sys

from lfads_torch.cli.make_nlb_submission import main

if __name__ == "__main__":
    sys.exit(main())
