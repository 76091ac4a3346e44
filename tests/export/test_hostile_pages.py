"""What joins a page leaves those who lie there alone, whatever somebody writes into its slots."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

from eideticnet.export.graph.lanes import needs
from eideticnet.export.graph.tail import logits_name
from eideticnet.export.proof.verify import verify
from eideticnet.export.proof.version import open_version
from tests.support.archived_networks import archived, edited, grown, reclaim

FIRST, SECOND, HEAD = (f"paged.layers.page0__{layer}" for layer in ("layers__0", "layers__4", "task_head"))


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two tasks in one page; a third one joins it."""
    folder, (old, new, _) = tmp_path_factory.mktemp("pages"), grown()
    assert [page.owners for page in new.pages()] == [("t0", "t1", "t2")]
    return tuple(
        archived(net, folder / f"{i}", f"{i}.0", layout="paged") for i, net in enumerate((old, new), 1)
    )


@pytest.fixture(scope="module")
def rows(versions):
    """Of each layer, the rows of the first two tasks, the newcomer's, and the free ones."""
    values, found = open_version(versions[1]).values, {}
    masks = [needs(values, logits_name(owner)).needed for owner in ("t0", "t1", "t2")]
    for layer in (FIRST, SECOND, HEAD):
        of = [mask[f"{layer}.bias"] for mask in masks]
        old, all_of_them = of[0] | of[1], of[0] | of[1] | of[2]
        parts = old, of[2] & ~old, ~all_of_them
        found[layer] = [np.flatnonzero(part) for part in parts]
    return found


def tensor(model, name):
    (found,) = [t for t in model.graph.initializer if t.name == name]
    return found


def write(model, name, change):
    """Let ``change`` write into the numbers of a tensor."""
    found = tensor(model, name)
    numbers = numpy_helper.to_array(found).copy()
    change(numbers)
    found.CopyFrom(numpy_helper.from_array(numbers, name))


def judged(versions, tmp_path, change):
    """The proof of the newer version with a changed graph, whose digests and pages it claims truly."""
    models = []

    def graph(model):
        change(model)
        models.append(model)

    forged = edited(versions[1], tmp_path / "net.mar", graph, lambda bundle: reclaim(bundle, models[0]))
    return verify(forged, versions[0])


def test_a_newcomer_in_free_slots_is_proven_whatever_its_weights_are(versions, rows, tmp_path):
    def change(model):
        def fill(numbers):
            numbers[rows[FIRST][1]] = 1e6
            numbers[rows[FIRST][2]] = -3

        write(model, f"{FIRST}.weight", fill)

    assert verify(versions[1], versions[0]).verdict == "proven"
    assert judged(versions, tmp_path, change).verdict == "proven"


def old_row_over_written(model, rows):
    write(model, f"{SECOND}.weight", lambda w: np.copyto(w[rows[SECOND][0][0]], w[rows[SECOND][1][0]]))


def old_bias_over_written(model, rows):
    write(model, f"{HEAD}.bias", lambda b: b.__setitem__(rows[HEAD][0][-1], 0.125))


def old_row_reads_a_newcomer(model, rows):
    write(model, f"{SECOND}.weight", lambda w: w.__setitem__((rows[SECOND][0][0], rows[FIRST][1][0]), 1e-30))


def old_row_reads_a_free_slot(model, rows):
    """Which is nothing but zero; who joins later would be read."""
    write(model, f"{SECOND}.weight", lambda w: w.__setitem__((rows[SECOND][0][0], rows[FIRST][2][-1]), 1.0))
    write(model, f"{FIRST}.bias", lambda b: b.__setitem__(rows[FIRST][2][-1], 1.0))


def old_head_reads_a_newcomer(model, rows):
    write(model, f"{HEAD}.weight", lambda w: w.__setitem__((rows[HEAD][0][0], rows[SECOND][1][0]), -0.5))


def rows_exchanged(model, rows):
    one, other = rows[FIRST][0][0], rows[FIRST][1][0]
    for part in ("weight", "bias"):
        write(model, f"{FIRST}.{part}", lambda w: w.__setitem__([one, other], w[[other, one]]))


def heads_cut_elsewhere(model, rows):
    (cut,) = [n for n in model.graph.node if logits_name("t0") in n.output]
    write(model, cut.input[1], lambda sizes: sizes.__setitem__(slice(0, 2), sizes[1::-1]))


def heads_exchanged(model, rows):
    (cut,) = [n for n in model.graph.node if logits_name("t0") in n.output]
    cut.output[0], cut.output[2] = cut.output[2], cut.output[0]


def another_operator(model, rows):
    next(n for n in model.graph.node if n.op_type == "Relu").op_type = "Abs"


def another_page_read(model, rows):
    """A page of the newcomer's, added to what the old heads read."""
    nodes = model.graph.node
    place = next(i for i, n in enumerate(nodes) if n.op_type == "Gemm" and n.input[1] == f"{HEAD}.weight")
    value, wide = nodes[place].input[0], len(rows[SECOND][0]) + len(rows[SECOND][1]) + len(rows[SECOND][2])
    weight = np.zeros((wide, wide), np.float32)
    weight[0, 0] = 1
    model.graph.initializer.append(numpy_helper.from_array(weight, "extra"))
    nodes[place].input[0] = "more"
    nodes.insert(place, helper.make_node("Add", [value, "page"], ["more"], name="add_page"))
    nodes.insert(place, helper.make_node("MatMul", [value, "extra"], ["page"], name="page"))


FORGERIES = [
    *(old_row_over_written, old_bias_over_written, old_row_reads_a_newcomer, old_row_reads_a_free_slot),
    *(old_head_reads_a_newcomer, rows_exchanged, heads_cut_elsewhere, heads_exchanged, another_operator),
    another_page_read,
]


@pytest.mark.parametrize("forgery", FORGERIES)
def test_who_touches_an_earlier_task_is_refused_although_the_claims_fit_the_graph(
    versions, rows, tmp_path, forgery
):
    found = judged(versions, tmp_path, lambda model: forgery(model, rows))
    assert found.verdict == "refused"
    assert "changed: its digest is another" in " ".join(found.reasons)


@pytest.mark.parametrize("layer", [FIRST, SECOND])
@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("number", [3e38, -np.inf, np.nan])
def test_a_newcomer_that_may_overflow_is_refused_although_no_probe_shows_it(
    versions, rows, tmp_path, layer, part, number
):
    """An infinity times the zeros of the others is no number."""
    row = rows[layer][1 if number > 0 else 2][0]
    found = judged(
        versions,
        tmp_path,
        lambda model: write(model, f"{layer}.{part}", lambda w: w.__setitem__(row, number)),
    )
    assert found.verdict == "refused"
    assert "by zero that may be infinite or no number" in " ".join(found.reasons)


def pages(bundle):
    return bundle["pages"]


@pytest.mark.parametrize(
    ("lie", "verdict", "message"),
    [
        (lambda b: pages(b)[0]["owners"].reverse(), "refused", "lie in other pages, or in another order"),
        (lambda b: pages(b)[0]["owners"].pop(), "refused", "its tasks are ['t0', 't1', 't2']"),
        (lambda b: pages(b)[0]["owners"].append("t9"), "refused", "its tasks are ['t0', 't1', 't2']"),
        (lambda b: b.update(pages=[]), "refused", "its tasks are ['t0', 't1', 't2']"),
        (lambda b: pages(b)[0]["slots"].update({"layers.0": 8}), "not comparable", "pages were laid anew"),
        (lambda b: pages(b)[0].update(sources=[3]), "not comparable", "pages were laid anew"),
        (lambda b: pages(b)[0].update(most=64), "not comparable", "pages were laid anew"),
    ],
)
def test_pages_that_bundle_json_tells_otherwise_are_not_proven(versions, tmp_path, lie, verdict, message):
    found = verify(edited(versions[1], tmp_path / "net.mar", bundle=lie), versions[0])
    assert found.verdict == verdict
    assert message in " ".join(found.reasons)


def test_another_layout_shows_how_far_the_answers_are_apart_and_keeps_every_promise(versions, tmp_path):
    nested = archived(grown()[1], tmp_path / "nested", "3.0")
    for new, old in ((nested, versions[0]), (versions[1], nested)):
        found = verify(new, old)
        assert found.verdict == "not comparable"
        said = " ".join(found.reasons)
        assert "they claim the same weights" in said
        assert "0 answers flip" in said
    renamed = edited(nested, tmp_path / "net.mar", bundle=lambda b: b["tasks"][0]["classes"].reverse())
    assert verify(renamed, versions[0]).verdict == "refused"
    other = edited(
        nested, tmp_path / "net.mar", bundle=lambda b: b["tasks"][0].update(network_digest="0" * 64)
    )
    assert "they claim other weights of task 'task 0'" in " ".join(verify(other, versions[0]).reasons)
