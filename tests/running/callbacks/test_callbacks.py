"""Importing the callbacks imports no package that only some runs need."""

import subprocess
import sys


def test_import_does_not_import_matplotlib():
    """Lightning imports it through torchmetrics, so only further imports are detected."""
    code = (
        "import sys, pytorch_lightning\n"
        "for name in [name for name in sys.modules if name.startswith('matplotlib')]:\n"
        "    del sys.modules[name]\n"
        "import lfads_torch.running.callbacks\n"
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
