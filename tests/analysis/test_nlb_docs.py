"""The sizes of recordings in docs/nlb.md are those of the models that its commands train."""

import re
from pathlib import Path

import numpy as np
import pytest

from lfads_torch.data.catalogue import DANDI
from lfads_torch.running.compose import compose
from tests.conftest import write_file

PAGE = (Path(__file__).parents[2] / "docs" / "nlb.md").read_text()
ROWS = re.findall(
    r"^\| `(\w+)` \| \[(\d+)\]\S+ \| (\d+) \+ (\d+) \| (\d+), (\d+) \| (\d+), (\d+) \|", PAGE, re.M
)
RECORDINGS = {name: (number, *map(int, sizes)) for name, number, *sizes in ROWS}
COMMANDS = re.findall(r"^\| [\w, -]+ \| `(model=[^`]+)` \|", PAGE, re.M)


def test_the_page_names_all_recordings():
    assert {name: row[0] for name, row in RECORDINGS.items()} == DANDI
    assert len(COMMANDS) == len(DANDI) + 1


@pytest.mark.filterwarnings("ignore:All L2 and KL scales")
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_fit_the_recordings(tmp_path, command):
    words = command.split()
    name = words[0].removeprefix("model=")
    _, heldin, heldout, *bins = RECORDINGS[name]
    n_bins, n_later = bins[2:] if command == "model=mc_maze datamodule=mc_maze" else bins[:2]
    recon = np.zeros((2, n_bins, heldin + heldout), dtype="uint8")
    arrays = {}
    for split in ("train", "valid"):
        arrays[f"{split}_encod_data"] = recon[:, : n_bins - n_later, :heldin]
        arrays[f"{split}_recon_data"] = recon
    path = write_file(tmp_path / "data.h5", arrays)
    words = [word for word in words if "datafile_pattern" not in word]
    for primary in ("single", "pbt"):
        config = compose(
            f"../configs/{primary}.yaml", [*words, f"datamodule.datafile_pattern={path}"]
        )
        assert config.model.encod_data_dim == heldin
        assert config.model.encod_seq_len == n_bins - n_later
