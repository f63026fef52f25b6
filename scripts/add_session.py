"""Add a recording session to a trained model: see ``--help``."""

import sys

from lfads_torch.cli import add_session


def main() -> int:
    """Run the command; this file is copied into the folder of the run."""
    return add_session.main(script=__file__)


if __name__ == "__main__":
    sys.exit(main())
