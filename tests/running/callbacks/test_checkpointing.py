"""The last epoch is saved, even if it is not the best."""

from types import SimpleNamespace

from pytorch_lightning.callbacks import ModelCheckpoint

from lfads_torch.running.callbacks import LastCheckpoint


def test_the_last_epoch_is_kept_from_the_first_of_a_resumed_run_on(tmp_path):
    keeping = ModelCheckpoint(tmp_path, save_last=True)
    keeping.best_model_path = "best of the run before"
    saved = []
    trainer = SimpleNamespace(fast_dev_run=False, save_checkpoint=saved.append)
    callback = LastCheckpoint(keeping)
    callback.on_train_start(trainer, None)
    callback.on_train_epoch_end(trainer, None)
    assert saved == [tmp_path / "last.ckpt"]
    keeping.best_model_path = "a better one, with which the last was saved"
    callback.on_train_epoch_end(trainer, None)
    assert len(saved) == 1
    callback.on_train_epoch_end(trainer, None)
    assert len(saved) == 2
