"""Train one LFADS model.

    python scripts/run_single.py                                  the shipped Lorenz data
    python scripts/run_single.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  data of your own
    python scripts/run_single.py --resume runs/mine               continue, after kill -9 too

Words of the form key=value override the configuration (Hydra's syntax: trainer.max_epochs=300,
model.kl_ic_scale=1e-5, model=generic …) and the options below.
"""

import sys

from lfads_torch.cli.run_options import parse_run, start_or_resume

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = "../configs/single.yaml"
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with configurations of your own, searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


def main() -> int:
    """Parse the command line and run."""
    args = parse_run(__doc__, CONFIG_PATH, CONFIG_DIR, OVERWRITE)

    from lfads_torch.running.run_folder import resume_single, run_single

    return start_or_resume(args, run_single, resume_single, OVERRIDES, RUN_DIR, script=__file__)


if __name__ == "__main__":
    sys.exit(main())
