"""Write a run's rates as a submission to the Neural Latents Benchmark (see --help)."""

import sys

from lfads_torch.cli.make_nlb_submission import main

if __name__ == "__main__":
    sys.exit(main())
