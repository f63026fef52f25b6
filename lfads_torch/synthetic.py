"""The established name of the command that writes synthetic data sets.

``python -m lfads_torch.synthetic lorenz`` runs :mod:`lfads_torch.cli.simulate`.
"""

import sys

from lfads_torch.cli.simulate import main

if __name__ == "__main__":
    sys.exit(main())
