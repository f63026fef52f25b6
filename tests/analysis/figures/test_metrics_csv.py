"""Metrics are read from complete and from unfinished files."""

import numpy as np
import pytest

from lfads_torch.analysis.figures import read_metrics


def write(path, text):
    path.write_text(text)
    return path


def test_read_metrics(tmp_path):
    text = (
        "epoch,lr-AdamW,step,train/loss,valid/loss\n"
        ",0.1,0,,\n"
        "0,,1,,5.0\n0,,1,4.0,\n"
        ",0.2,2,,\n"
        "1,,3,,nan\n1,,3,3.0,\n"
        ",0.3,4,,\n"
        "1,,3,3.5,\n"  # a resumed run repeats epoch 1
        "2,,5,oops,6.0\n"
        ",0.4,6,,\n"
        "3,,7,1.2"  # still being written
    )
    metrics = read_metrics(write(tmp_path / "metrics.csv", text))
    assert set(metrics) == {"lr-AdamW", "train/loss", "valid/loss"}
    np.testing.assert_array_equal(metrics["train/loss"], [[0, 1], [4, 3.5]])
    np.testing.assert_array_equal(metrics["valid/loss"], [[0, 1, 2], [5, np.nan, 6]])
    np.testing.assert_array_equal(metrics["lr-AdamW"], [[0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize("text", ["", "epoch,st", "epoch,step,a\n", "step,a\n", "epoch,step,a\n0"])
def test_read_metrics_before_there_are_any(text, tmp_path):
    assert read_metrics(write(tmp_path / "metrics.csv", text)) == {}


def test_read_metrics_of_rows_with_too_few_or_many_cells(tmp_path):
    path = write(tmp_path / "metrics.csv", "epoch,step,a,b\n0,1,2\n1,2,3,4,5,6\n\n")
    metrics = read_metrics(path)
    np.testing.assert_array_equal(metrics["a"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(metrics["b"], [[1], [4]])
