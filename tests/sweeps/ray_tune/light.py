"""A fast trial that counts epochs; its score improves by its hyperparameter in each epoch."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from ray import tune


class Light(tune.Trainable):
    """A trial that trains two epochs in each step.

    A file in ``config["folder"]`` is named after each process. Trial number ``config["killer"]``
    kills the other processes once, when it has reached epoch 4 and they wait for it.
    """

    def setup(self, config):
        Path(config["folder"], str(os.getpid())).touch()
        self.reset_config(config)

    def reset_config(self, new_config):
        self.config = new_config
        self.epoch, self.gained = 0, 0.0
        return True

    def step(self):
        time.sleep(self.config["seconds"])
        self.epoch += 2
        self.gained += 2 * self.config["rate"]
        number = int(self.trial_id.split("_")[-1])
        done = Path(self.config["folder"], "killed")
        if number == self.config["killer"] and self.epoch == 4 and not done.exists():
            time.sleep(2)
            for path in Path(self.config["folder"]).glob("[0-9]*"):
                if int(path.name) != os.getpid():
                    with suppress(ProcessLookupError):  # it had ended
                        os.kill(int(path.name), signal.SIGKILL)
            done.touch()
            time.sleep(1)
        return {"cur_epoch": self.epoch, "valid/recon_smth": -self.gained}

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, "state.json").write_text(json.dumps([self.epoch, self.gained]))

    def load_checkpoint(self, checkpoint):
        self.epoch, self.gained = json.loads(Path(checkpoint, "state.json").read_text())
