"""Apply a trained model to trials that it was not trained on: see ``--help``."""

import sys

from lfads_torch.cli.infer import main

if __name__ == "__main__":
    sys.exit(main())
