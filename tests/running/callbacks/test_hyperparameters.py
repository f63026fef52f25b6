"""A model that continues from a checkpoint keeps its own hyperparameters."""

import pytest
import torch

from lfads_torch.running.callbacks import ApplyHyperparameters
from tests.running.callbacks.training import Losses, fit, make_data, make_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def resume(tmp_path, model, *callbacks, change=None, max_epochs=2, logger=False):
    """Continue training from a checkpoint of one epoch, made with learning rate 4e-3."""
    path = tmp_path / "first.ckpt"
    if not path.is_file():
        first = fit(tmp_path, [], make_data(tmp_path), make_model(lr_init=4e-3), max_epochs=1)
        first.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    (change or (lambda content: None))(content)
    torch.save(content, tmp_path / "changed.ckpt")
    return fit(
        tmp_path, list(callbacks), make_data(tmp_path), model, max_epochs,
        ckpt_path=tmp_path / "changed.ckpt", logger=logger,
    )  # fmt: skip


def test_hyperparameters_of_the_model_replace_those_of_a_checkpoint(tmp_path):
    own = {"lr_init": 1e-3, "lr_adam_epsilon": 1e-5, "lr_adam_beta1": 0.5, "weight_decay": 0.2}
    (optimizer,) = resume(tmp_path, make_model(**own), ApplyHyperparameters()).optimizers
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"], group["betas"]) == (1e-3, 1e-5, (0.5, 0.999))
    assert optimizer.state[group["params"][0]]["step"] == 2 * 2  # of the moments
    # Without the callback, the settings are those of the checkpoint.
    (optimizer,) = resume(tmp_path, make_model(**own)).optimizers
    assert optimizer.param_groups[0]["lr"] == 4e-3
    assert optimizer.param_groups[0]["eps"] == 1e-8


def test_hyperparameters_do_not_change_without_a_checkpoint(tmp_path):
    runs = []
    for callbacks in ([], [ApplyHyperparameters()]):
        losses = Losses()
        fit(tmp_path, [*callbacks, losses], make_data(tmp_path), make_model(lr_init=2e-3))
        runs.append(losses.values)
    assert runs[0] == runs[1]


def test_hyperparameters_that_are_the_same_change_nothing(tmp_path):
    """Losses are bitwise equal, even if the learning rate of the checkpoint has been lowered."""

    def lower(content):
        content["optimizer_states"][0]["param_groups"][0]["lr"] = 1.1e-3

    for change, rate in ((None, 4e-3), (lower, 1.1e-3)):
        runs = []
        for callbacks in ([], [ApplyHyperparameters()]):
            losses, model = Losses(), make_model(lr_init=4e-3)
            trainer = resume(tmp_path, model, *callbacks, losses, change=change)
            assert trainer.optimizers[0].param_groups[0]["lr"] == rate
            runs.append(losses.values)
        assert runs[0] == runs[1]
