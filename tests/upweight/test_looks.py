"""One row as its dataset's preview says, in pixels or in words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from tests.upweight import records
from upweight.results.pictures import png
from upweight.results.pictures.look import label, pixels, words
from upweight.schema import DatasetRecord, ImagePreview, TablePreview


@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 3), (2, 2, 4)])
def test_png_is_read_back_as_it_was(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal((imread(io.BytesIO(png(image))) * 255).round(), image)


def test_pictures_are_read_in_every_layout() -> None:
    flat = np.linspace(-1, 1, 12)
    preview = ImagePreview(column="x", shape=(3, 2, 2), minimum=-1, maximum=1)
    image = pixels(flat, preview)
    assert image.shape == (2, 2, 3)
    assert (image.min(), image.max()) == (0, 255)
    assert pixels(np.zeros((1, 4, 5)), ImagePreview(column="x")).shape == (4, 5)
    assert pixels(np.zeros((4, 5)), ImagePreview(column="x")).shape == (4, 5)


def test_rows_that_are_no_pictures_are_told_in_words() -> None:
    table = TablePreview(column="x", names=("age", "height"))
    assert words(np.array([3.0, 1.5, 2, 2, 2]), table) == "age 3, height 1.5, 2, 2, …"
    dataset = DatasetRecord.model_validate(records.dataset(class_names=["cat"]))
    assert (label(0, dataset), label(5, dataset), label(0.25, dataset)) == ("cat", "5", "0.25")
