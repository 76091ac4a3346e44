"""Pages: whoever joins one, or opens another, moves no bit of an earlier task."""

import json
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from benchmarks.graphs import equal_tasks
from eideticnet import CheckpointError, EideticNetwork, Inputs
from eideticnet.checkpoint import _manifest_hash
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.build import build
from eideticnet.export.errors import ExportError
from eideticnet.export.graph.idle import hazards
from eideticnet.export.graph.lanes import lane_digests
from eideticnet.export.graph.session import session
from eideticnet.export.graph.tail import logits_name
from eideticnet.export.graph.values import Values
from eideticnet.export.lowering.body import Body
from eideticnet.export.proof.verify import verify
from eideticnet.export.show import show_build
from eideticnet.models import convnet, mlp
from eideticnet.pages import laying
from eideticnet.slots import page_of
from tests.support.example_counts import examples
from tests.support.growing_networks import grow, paged_graph, routed, rows
from tests.support.layer_zoo import ZOO
from tests.support.tolerances import EXPORTED

ROWS = (1, 2, 7, 32)
DEFAULT = {"residual"}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch):
    """Small networks in several pages."""
    monkeypatch.setattr(laying, "OPERATION", 200)
    monkeypatch.setattr(laying, "MULTIPLE", 8)


def network(trunk, x):
    torch.manual_seed(0)
    contract = Inputs(tuple(x.shape[1:]), "int64" if not x.is_floating_point() else "float32", *bounds(x))
    net = EideticNetwork(trunk, x, inputs=contract, planned_tasks=6)
    net.program = net.program.widened({group: 3 * n for group, n in net.program.groups.items()})
    return net


def bounds(x):
    return (0, int(x.max())) if not x.is_floating_point() else (-4.0, 4.0)


def answers(net, graph):
    """Logits by batch size and owner; those of the tasks agree with the blocks' up to rounding."""
    run = session(graph)
    found = {count: run({"x": rows(net, count).numpy()}) for count in ROWS}
    with torch.no_grad():
        blocks = Body(net).eval()(rows(net, ROWS[-1]))
    for task, expected in zip(net.learned.tasks, blocks, strict=False):
        ours = found[ROWS[-1]][logits_name(task.owner)]
        assert np.abs(ours - expected.numpy()).max() <= EXPORTED * max(1, expected.abs().max())
    return {
        (count, t.owner): of[logits_name(t.owner)] for count, of in found.items() for t in net.learned.tasks
    }


def assert_kept(before, after):
    """Equal as integers; a later owner may turn -0.0 into 0.0."""
    for key, logits in before.items():
        assert ((logits + 0.0).view(np.int32) == (after[key] + 0.0).view(np.int32)).all(), key


def digests(net, graph, earlier):
    """Of each task's head; what any of the ``earlier`` ones multiplies by zero is sure to be finite."""
    values, spec = Values(graph), net.inputs
    assert not list(hazards(values, earlier, spec.low, spec.high))
    return lane_digests(values, [logits_name(task.owner) for task in net.learned.tasks])


def live(net, seed, steps, reads, most=5):
    rng, before, pages, proven = random.Random(seed), {}, [], {}
    for step in steps:
        grow(net, rng, most, reads, revise=step == "revise")
        if step == "widen":
            net.program = net.program.widened(dict.fromkeys(net.program.groups, 3))
        learned = net.learned
        if step == "router":
            net.learned = routed(net)
        for old, new in zip(pages, net.pages(), strict=False):
            assert (old.slots, old.sources, old.most) == (new.slots, new.sources, new.most)
            assert new.owners[: len(old.owners)] == old.owners
        pages, graph = net.pages(), paged_graph(net)
        now, found = answers(net, graph), digests(net, graph, proven)
        assert_kept(before, now)
        assert proven.items() <= found.items()
        proven = found
        before, net.learned = now, learned.with_pages(pages)
    return pages


STEPS = st.lists(st.sampled_from(["task", "router", "widen", "revise"]), min_size=2, max_size=4)


@settings(examples(2, 40))
@given(
    trunk=st.sampled_from(["mlp", "convnet"]),
    steps=STEPS,
    seed=st.integers(0, 999),
    reads=st.sampled_from([0.0, 0.7, 1.0]),
    most=st.sampled_from([2, 5, 9]),
)
def test_no_history_of_pages_moves_a_bit_or_the_digest_of_an_earlier_task(trunk, steps, seed, reads, most):
    made = {"mlp": (mlp(20, (30, 30)), (20,)), "convnet": (convnet(3, (20, 20)), (3, 8, 8))}
    body, shape = made[trunk]
    live(network(body, torch.zeros(2, *shape)), seed, ["task", *steps], reads, most)


@pytest.mark.parametrize(
    "kind", [k if k in DEFAULT else pytest.param(k, marks=pytest.mark.slow) for k in ZOO]
)
def test_pages_of_every_kind_of_layer_keep_the_earlier_tasks_bits_and_digests(kind):
    trunk, data = ZOO[kind]
    steps = ["task", "router", "task", "task"][: 3 if kind in DEFAULT else 4]
    pages = live(network(trunk(), data(2)), 0, steps, 1.0)
    if kind in ("residual", "transformer"):
        assert len(pages) < 3, "someone joined another's page"


def test_a_task_that_does_not_fit_or_reads_others_opens_a_page():
    net, rng = network(mlp(20, (30, 30)), torch.zeros(2, 20)), random.Random(0)
    for reads in (1.0, 1.0, 1.0, 1.0, 0.0):
        grow(net, rng, 5, reads)
    pages = net.pages()
    lie = page_of(pages)
    assert list(lie) == [f"t{i}" for i in range(5)]
    for owner, number in lie.items():
        assert {lie[o] for o in net.learned.block(owner).reads} <= {*pages[number].sources, number}


def test_a_task_that_reads_few_has_a_page_of_its_own_where_norms_are_over_what_is_read():
    """Who is to come would have to read it, so nobody could join."""
    trunk = nn.Sequential(nn.Linear(20, 60), nn.LayerNorm(60), nn.ReLU(), nn.Linear(60, 60))
    net, rng = network(trunk, torch.zeros(2, 20)), random.Random(0)
    for reads in (1.0, 0.0, 0.0):
        grow(net, rng, 5, reads)
    assert [(page.owners, page.most) for page in net.pages()[1:]] == [(("t1",), 1), (("t2",), 1)]


def test_pages_are_stored_and_never_laid_again(tmp_path, monkeypatch):
    net, rng = network(mlp(20, (40, 40)), torch.zeros(2, 20)), random.Random(0)
    for _ in range(3):
        grow(net, rng)
    net.save(tmp_path)
    monkeypatch.setattr(laying, "MULTIPLE", 4)  # a later release lays others
    assert EideticNetwork.load(tmp_path).pages() == net.pages()


def forget_pages(run):
    """Let a checkpoint be one of before there were pages."""
    manifest = json.loads((run / "network.json").read_text())
    del manifest["pages"]
    manifest["sha256"] = _manifest_hash(manifest)
    (run / "network.json").write_text(json.dumps(manifest))


def test_a_checkpoint_of_before_there_were_pages_gets_them_when_they_are_asked_for(tmp_path):
    net = equal_tasks(mlp(20, (40, 40)), (20,), 4)
    net.save(tmp_path)
    forget_pages(tmp_path)
    assert EideticNetwork.load(tmp_path).pages() == net.pages()


def test_an_export_stores_the_pages_that_a_checkpoint_does_not_have(tmp_path):
    net, rng = network(mlp(20, (30, 30)), torch.zeros(2, 20)), random.Random(0)
    grow(net, rng)
    exported(net, tmp_path / "a", "1.0", layout="nested")
    forget_pages(tmp_path / "net")
    build(tmp_path / "net", tmp_path / "b", model_version="1.0")
    assert EideticNetwork.load(tmp_path / "net").learned.pages == net.pages()


class Masked(nn.Module):
    """Ten heads that look at no later position."""

    def __init__(self):
        super().__init__()
        self.first, self.qkv = nn.Linear(6, 20), nn.ModuleList(nn.Linear(20, 20) for _ in range(3))

    def forward(self, x):
        h = self.first(x).relu()
        q, k, v = (layer(h).unflatten(2, (10, 2)).transpose(1, 2) for layer in self.qkv)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2).mean(1)


class Sums(nn.Module):
    """Sums of what is before each position, of which a proof knows nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 20), nn.Linear(20, 20)

    def forward(self, x):
        return self.last(self.first(x).relu().cumsum(1)).mean(1)


def test_a_mask_keeps_nobody_from_sharing_a_page():
    assert len(live(network(Masked(), torch.zeros(2, 5, 6)), 0, ["task"] * 3, 1.0, 2)) == 1


def test_a_first_version_has_blocks_where_no_proof_could_tell_that_who_joins_a_page_changes_nothing(tmp_path):
    net, rng = network(Sums(), torch.zeros(2, 5, 6)), random.Random(0)
    for _ in range(2):
        grow(net, rng, 2)
    assert len(net.pages()) == 1
    assert layout(exported(net, tmp_path / "a", "1.0")) == "nested"
    with pytest.warns(UserWarning, match="will refuse versions in which another task has joined"):
        assert layout(exported(net, tmp_path / "b", "1.0", layout="paged")) == "paged"


def test_a_run_that_can_not_be_written_is_exported_and_its_pages_are_said_to_be_laid_again(
    tmp_path, monkeypatch
):
    net, rng = network(mlp(20, (30, 30)), torch.zeros(2, 20)), random.Random(0)
    grow(net, rng)
    exported(net, tmp_path / "a", "1.0")
    forget_pages(tmp_path / "net")

    def refused(self, folder):
        raise CheckpointError("can't write checkpoint: Read-only file system")

    monkeypatch.setattr(EideticNetwork, "save", refused)
    with pytest.warns(UserWarning, match=r"Read-only file system; its pages are laid again"):
        assert layout(build(tmp_path / "net", tmp_path / "b", model_version="1.0")) == "paged"
    with pytest.raises(ExportError, match=r"2.0.mar is there, and its pages could not be stored"):
        build(tmp_path / "net", tmp_path / "b", model_version="2.0", repack=True)


def exported(net, store, version, **options):
    """An archive of this state of the network, whose run is kept beside the store."""
    learned, run = net.learned, store.parent / "net"
    net.learned = routed(net)
    net.save(run)
    net.learned = learned.with_pages(net.pages())
    return build(run, store, model_version=version, **options)


def layout(archive):
    return read_archive(archive).bundle.layout


def test_a_first_version_is_paged_and_later_ones_are_as_the_last_in_the_store(tmp_path):
    net, rng = network(mlp(20, (30, 30)), torch.zeros(2, 20)), random.Random(0)
    grow(net, rng)
    first = exported(net, tmp_path / "a", "1.0")
    grow(net, rng)
    second = exported(net, tmp_path / "a", "2.0")
    assert (layout(first), layout(second)) == ("paged", "paged")
    assert verify(second, first).verdict == "proven"
    exported(net, tmp_path / "b", "1.0", layout="nested")
    assert layout(exported(net, tmp_path / "b", "2.0")) == "nested"
    assert layout(exported(net, tmp_path / "c", "1.0", format="torchscript")) == "nested"


@pytest.mark.slow
def test_pages_that_are_laid_anew_stay_and_compare_with_no_earlier_version(tmp_path, monkeypatch):
    net, rng = network(mlp(20, (30, 30)), torch.zeros(2, 20)), random.Random(0)
    for _ in range(4):
        grow(net, rng)
    first = exported(net, tmp_path / "store", "1.0")
    monkeypatch.setattr(laying, "OPERATION", 1)
    monkeypatch.setattr(laying, "MULTIPLE", 1)
    kept = build(tmp_path / "net", tmp_path / "store", model_version="2.0")
    assert verify(kept, first).verdict == "proven"
    for refused in ({"model_version": "1.0"}, {"model_version": "3.0", "layout": "nested"}):
        before = (tmp_path / "net" / "network.json").read_bytes()
        with pytest.raises(ExportError):
            build(tmp_path / "net", tmp_path / "store", repack=True, **refused)
        assert (tmp_path / "net" / "network.json").read_bytes() == before, "it failed"
    with pytest.warns(UserWarning, match="later versions are proven against this one, and not"):
        anew = build(tmp_path / "net", tmp_path / "store", model_version="3.0", repack=True)
    assert read_archive(anew).bundle.pages != read_archive(kept).bundle.pages
    assert verify(anew, first).verdict == "not comparable"
    again = build(tmp_path / "net", tmp_path / "store", model_version="4.0")
    assert verify(again, anew).verdict == "proven"


def test_inputs_without_a_range_give_each_task_a_page_and_the_export_says_why(tmp_path, capsys):
    torch.manual_seed(0)
    net, rng = EideticNetwork(mlp(20, (40, 40)), torch.zeros(2, 20)), random.Random(0)
    for _ in range(3):
        grow(net, rng)
    assert [page.owners for page in net.pages()] == [("t0",), ("t1",), ("t2",)]
    show_build(read_archive(exported(net, tmp_path / "store", "1.0")).bundle)
    assert "inputs have no range" in capsys.readouterr().err
