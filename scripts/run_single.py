"""Train one LFADS model.

    python scripts/run_single.py                                  the shipped Lorenz data
    python scripts/run_single.py model=generic datamodule=generic \
        datamodule.datafile_pattern=my_data.h5 run_dir=runs/mine  your own data
    python scripts/run_single.py --resume runs/mine               continue, even after kill -9

Arguments of the form key=value override the configuration (Hydra's syntax: trainer.max_epochs=300,
model.kl_ic_scale=1e-5, model=generic …) and the options below.
"""

import sys

from lfads_torch.cli.run_single import main

# ---------- OPTIONS: edit here, or override on the command line ----------
CONFIG_PATH = None  # None: the packaged configs/single.yaml; otherwise the path of your own file
OVERRIDES = {
    "model": "lorenz",
    "datamodule": "lorenz",
}
RUN_DIR = None  # None: runs/{data}/{time}
CONFIG_DIR = None  # a folder with your own configurations, which is searched first
OVERWRITE = False  # True: an existing RUN_DIR is renamed to RUN_DIR.1, not deleted
# -------------------------------------------------------------------------


if __name__ == "__main__":
    sys.exit(main(__doc__, __file__, CONFIG_PATH, OVERRIDES, RUN_DIR, CONFIG_DIR, OVERWRITE))
