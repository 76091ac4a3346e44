"""Archives of one network that learned one task more for each version."""

import pytest
from histories import add_task, archived, edited, normalised
from nets import fit
from onnx import numpy_helper


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """Archives of versions 1.0, 2.0 and 3.0, honest successors of each other."""
    folder, net, made = tmp_path_factory.mktemp("versions"), normalised(1), {}
    for number in (1, 2, 3):
        if number > 1:
            add_task(net)
            fit(net)
        made[f"{number}.0"] = archived(net, folder / str(number), f"{number}.0")
    return made


@pytest.fixture(scope="session")
def forgetful(versions, tmp_path_factory):
    """A version 9.0 that claims to be a successor of 1.0 and has another weight in its first task."""
    return edited(
        versions["1.0"],
        tmp_path_factory.mktemp("forgetful") / "net-9.0.mar",
        graph=_other_weight,
        bundle=lambda bundle: bundle.update(model_version="9.0"),
    )


def _other_weight(model):
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    weight = numpy_helper.to_array(tensor).copy()
    weight[0, 0] += 1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


@pytest.fixture(scope="session")
def namesake(versions, tmp_path_factory):
    """Another archive of version 1.0: what is version 2.0 elsewhere."""
    return edited(
        versions["2.0"],
        tmp_path_factory.mktemp("namesake") / "net-1.0.mar",
        bundle=lambda bundle: bundle.update(model_version="1.0"),
    )
