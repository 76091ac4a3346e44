"""The example's sources: data sets of torchvision and Hugging Face become tasks."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eideticnet import batches

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield __import__("sources")
    sys.modules.pop("sources", None)


@pytest.fixture
def images(tmp_path):
    for i in range(12):
        (tmp_path / f"{i % 3}").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i % 3}/{i}.png")
    return tmp_path


@pytest.mark.slow
def test_rows_of_a_torchvision_data_set_are_those_of_the_groups(sources, images):
    pytest.importorskip("torchvision")
    found = sources.torchvision("ImageFolder", [[2], [0]], root=str(images))
    assert len(found) == 8
    image, label = found[0]
    assert (image.shape, image.dtype, label) == ((3, 8, 8), np.float32, 1)
    assert {int(x.max()) % 3 for x, y in found if y == 0} == {2}


@pytest.mark.slow
def test_rows_of_a_hugging_face_data_set_are_those_of_the_groups(sources, images):
    pytest.importorskip("datasets")
    x, y = sources.hugging_face("imagefolder", "train", [[2], [0, 1]], data_dir=str(images))
    assert x.shape == (12, 3, 8, 8)
    assert sorted(x[y == 0].max((1, 2, 3)) % 3) == [2, 2, 2, 2]
    assert len(batches(x, y, 4)) == 3
