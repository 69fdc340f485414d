"""The blocks in which losses and predictions are stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from service.storage.layout import ResultPaths
from service.storage.objects import Objects
from service.storage.tensors import read_header, read_tensor
from workers.engine import Problem, TensorRows, make_loss
from workers.jobs.predictions import store_predictions


def test_blocks_are_of_the_same_rows_whatever_the_batches_are(tmp_path: Path) -> None:
    x, y = torch.randn(25, 3), torch.arange(25) % 4
    problem = Problem(nn.Linear(3, 4).eval(), make_loss("cross_entropy"))
    objects = Objects(str(tmp_path))
    stored = {}
    for batch in (1, 7, 25):
        paths = ResultPaths("default", f"job_{batch}")
        store_predictions(
            objects,
            paths,
            "train",
            problem,
            TensorRows(x, y),
            first=100,
            block_rows=10,
            batch_size=batch,
        )
        found = sorted(meta.path for meta in objects.walk(paths.predictions("train")))
        names = [path.rpartition("/")[2] for path in found]
        assert [name.removesuffix(".safetensors") for name in names] == [
            "000000000100-000000000110",
            "000000000110-000000000120",
            "000000000120-000000000125",
        ]
        assert found == [
            paths.predictions_block("train", start, stop)
            for start, stop in ((100, 110), (110, 120), (120, 125))
        ]
        stored[batch] = np.concatenate([read_tensor(objects, path, "targets") for path in found])
    assert all(np.array_equal(each, y.numpy()) for each in stored.values())


def test_a_row_of_a_classifier_takes_seven_bytes(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    stored = {}
    for classes in (4, 300):
        problem = Problem(nn.Linear(3, classes).eval(), make_loss("cross_entropy"))
        paths = ResultPaths("default", f"job_{classes}")
        rows = TensorRows(torch.randn(1000, 3), torch.arange(1000) % classes)
        (path,) = store_predictions(objects, paths, "train", problem, rows)
        stored[classes] = {
            name: read_tensor(objects, path, name) for name in read_header(objects, path)
        }
        wrong = stored[classes]["predictions"] != stored[classes]["targets"]
        assert np.array_equal(stored[classes]["errors"], wrong)
        assert np.array_equal(stored[classes]["targets"], np.arange(1000) % classes)
    assert sum(each.nbytes for each in stored[4].values()) == 7 * 1000
    assert stored[300]["targets"].dtype == np.int16
