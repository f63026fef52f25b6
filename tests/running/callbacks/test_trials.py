"""Trials are inferred without any effect on the training."""

import numpy as np
import pytest
import torch

from lfads_torch.modules.augmentations import AugmentationStack
from lfads_torch.running.callbacks import FigureCallback, infer_trials
from tests.running.callbacks.training import fit, make_data, make_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")


def test_figures_restore_modes_and_random_state(tmp_path):
    """This holds even if an augmentation draws random numbers at inference."""

    class Noise:
        def process_batch(self, batch):
            torch.rand(3)
            return batch

    class Check(FigureCallback):
        def figures(self, trainer, model):
            before = torch.get_rng_state()
            modes = [module.training for module in model.modules()]
            assert any(modes)
            inferred = infer_trials(trainer, model, "valid", 0, np.array([2, 0]))
            assert torch.equal(torch.get_rng_state(), before)
            assert [module.training for module in model.modules()] == modes
            data = trainer.datamodule.valid_data[0][0].recon_data
            np.testing.assert_array_equal(inferred.data, data[[2, 0]])
            model.eval()
            batch = {0: trainer.datamodule.valid_ds[0][torch.tensor([2, 0])]}
            expected = model.predict_step(batch, 0, sample_posteriors=False)[0]
            for field, value in zip(expected._fields, expected, strict=True):
                torch.testing.assert_close(getattr(inferred.output, field), value)
            assert not inferred.output.factors.requires_grad
            checked.append(trainer.current_epoch)
            yield from ()

    checked = []
    model = make_model()
    model.infer_aug_stack = AugmentationStack([Noise()], batch_order=[0])
    fit(tmp_path, [Check()], make_data(tmp_path), model, max_epochs=1)
    assert checked == [0]
