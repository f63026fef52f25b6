"""Prepare the Neural Latents Benchmark. See ``python scripts/prepare_nlb.py --help``."""

import sys

from lfads_torch.cli.prepare_nlb import main

if __name__ == "__main__":
    sys.exit(main())
