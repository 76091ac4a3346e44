"""The life of a network: nested or disjoint tasks, widening, a pretrained start, revisions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eideticnet import CapacityError, DataError, EideticNetwork, Routing
from eideticnet.models import mlp
from eideticnet.program import HEAD
from tests.support.example_counts import examples
from tests.support.layer_zoo import ZOO
from tests.support.masked_twin import masked_logits
from tests.support.small_networks import LIGHT, QUICK, fit, held_out, names, task_loader, trained, untrained
from tests.support.small_trunks import FEATURES, TRUNKS, Mlp, Residual
from tests.support.zoo_networks import add, zoo_inputs, zoo_net

DOUBLE_ROUNDING = 1e-12
OPTIONS = {"training": QUICK, "pruning": LIGHT}


def learn(net, number, **options):
    net.train_task(f"task {number}", task_loader(number), names(2), **{**OPTIONS, **options})


def assert_equals_twin(net, trunk, x):
    expected = masked_logits(net, trunk, x)
    net.double()
    pieces = net.learned.pieces(x.double() if x.is_floating_point() else x, net.learned.blocks)
    for owner, logits in expected.items():
        assert float((pieces[owner][HEAD] - logits).abs().max()) < DOUBLE_ROUNDING, owner


def test_a_disjoint_task_reads_the_input_alone():
    net = trained(2, (40, 40))
    learn(net, 2, reads=[])
    block = net.learned.block("t2")
    assert block.reads == ()
    assert net.learned.closure("t2") == ("t2",)
    assert block.layer("layers.4").weight.shape[1] == block.own["layers.0"]
    assert_equals_twin(net, lambda: Mlp((40, 40)), held_out())


def test_a_task_may_build_on_some_tasks_and_not_on_others():
    net = trained(3, (40, 40))
    learn(net, 3, reads=["task 2", "task 0"])
    assert net.learned.block("t3").reads == ("t0", "t2")
    assert net.learned.closure("t3") == ("t0", "t1", "t2", "t3")  # t2 itself was built on t1
    assert_equals_twin(net, lambda: Mlp((40, 40)), held_out())


def test_tasks_may_be_nested_in_one_layer_and_disjoint_in_another():
    net = trained(2, (40, 40))
    learn(net, 2, reads={"layers.4": [], HEAD: ["task 1"]})
    block, owned = net.learned.block("t2"), net.learned.owned()
    assert block.layer("layers.4").weight.shape[1] == owned["t2"]["layers.0"]
    assert block.layer(HEAD).weight.shape[1] == owned["t1"]["layers.4"] + owned["t2"]["layers.4"]
    assert_equals_twin(net, lambda: Mlp((40, 40)), held_out())


@examples(2, 4)
@given(
    trunk=st.sampled_from(TRUNKS[:3]),
    reads=st.lists(st.sets(st.integers(0, 3)), min_size=4, max_size=4),
    by_layer=st.booleans(),
    seed=st.integers(0, 100),
)
def test_whatever_tasks_read_they_equal_the_twin_and_never_change(trunk, reads, by_layer, seed):
    widths = (36, 30)
    net = EideticNetwork(trunk(widths), torch.zeros(2, FEATURES), seed=seed)
    x, before = held_out(), {}
    for i, wanted in enumerate(reads):
        some = [f"task {j}" for j in wanted if j < i]
        layers = [p for p in net.program.layers if p != HEAD]
        learn(net, i, reads={layers[-1]: some} if by_layer else some)
        for name, logits in before.items():
            assert torch.equal(net.task_logits(x, name), logits)
        before[f"task {i}"] = net.task_logits(x, f"task {i}")
    fit(net)
    assert_equals_twin(net, lambda: trunk(widths), x)


OFTEN = ["separable", "grouped", "lstm"]


@pytest.mark.parametrize("kind", [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k in ZOO])
def test_every_layer_can_be_disjoint(kind):
    net, x = zoo_net(kind, 1, router=False), zoo_inputs(kind)
    logits = net.task_logits(x, "task 0")
    net.widen(1.0)
    add(net, kind, 1, reads=[])
    assert torch.equal(net.task_logits(x, "task 0"), logits)
    pieces = net.learned.pieces(x, ["t1"])
    assert torch.equal(pieces["t1"][HEAD], net.task_logits(x, "task 1"))


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        (["task 9"], "task 9"),
        ({"layers.7": []}, "layers.7"),
        ("task 0", "a list"),
        ({"layers": "x"}, "a list"),
    ],
)
def test_what_can_not_be_read_is_named(reads, words):
    net = trained(1)
    with pytest.raises(DataError, match=words):
        learn(net, 1, reads=reads)


def test_widening_adds_free_neurons_and_changes_no_bit(tmp_path):
    net = trained(2)
    x, digests, before = held_out(), net.digests(), net(held_out())
    free = {g: row["free"] for g, row in net.capacity().items()}
    net.widen(0.5)
    net.widen({"layers.4": 3})
    assert net.capacity()["layers.0"]["free"] == free["layers.0"] + 12
    assert net.capacity()["layers.4"]["free"] == free["layers.4"] + 13
    assert net.digests() == digests
    assert all(torch.equal(a, b) for a, b in zip(net(x), before, strict=True))
    learn(net, 2, pruning=None)
    assert net.digests()["task 0"] == digests["task 0"]
    net.save(tmp_path)
    assert EideticNetwork.load(tmp_path).capacity() == net.capacity()
    fitted = EideticNetwork.load(tmp_path)
    fitted.fit_router(
        {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)},
        training=QUICK,
        routing=Routing("block", "hard", LIGHT, width="free"),
        when_full="widen",
    )
    assert_equals_twin(fitted, lambda: Mlp([fitted.program.groups[g] for g in ("layers.0", "layers.4")]), x)


@pytest.mark.parametrize("by", [{"nothing": 3}, {"layers.0": -1}, -0.5])
def test_a_network_can_not_be_widened_by_what_makes_no_sense(by):
    with pytest.raises(DataError, match="widen"):
        trained(1).widen(by)


def test_a_full_layer_is_widened_if_the_user_says_so_and_only_if_learning_succeeds():
    net = trained(1, (10, 10), router=False, pruning=None)
    with pytest.raises(CapacityError, match="widen"):
        learn(net, 1)
    with pytest.raises(CapacityError, match="of all tasks"):
        learn(net, 1, when_full="reuse", reads=[])
    with pytest.raises(RuntimeError, match="stop"):
        learn(net, 1, when_full="widen", report=lambda event: (_ for _ in ()).throw(RuntimeError("stop")))
    assert net.program.groups == {"layers.0": 10, "layers.4": 10}
    learn(net, 1, when_full="widen")
    assert net.program.groups == {"layers.0": 15, "layers.4": 15}


@pytest.mark.parametrize("kind", ["residual", "lstm two layers both ways", "transformer", "layer norms"])
def test_a_pretrained_trunk_is_where_the_first_task_starts(kind):
    trunk, data = ZOO[kind]
    torch.manual_seed(3)
    plain, x = trunk(), zoo_inputs(kind)
    net = EideticNetwork(plain, data(2))
    frozen = torch.optim.SGD  # with a learning rate of 0 what was adopted is what is frozen
    from functools import partial

    from eideticnet import Training

    still = Training(partial(frozen, lr=0.0), patience=1, settle_patience=1, max_epochs=1)
    add(net, kind, 0, pretrained=plain, training=still, pruning=None)
    (name,) = net.program.steps[-1].inputs
    features = net.learned.pieces(x, ["t0"], [name])["t0"][name]
    norms = [m for m in plain.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if not norms:  # a batch norm's statistics move in training even when no weight does
        assert torch.allclose(features, plain.eval()(x), rtol=0, atol=1e-5)
    add(net, kind, 1, when_full="widen")
    assert torch.equal(net.learned.pieces(x, ["t0"], [name])["t0"][name], features)


def test_only_the_first_task_and_only_the_same_trunk_can_be_pretrained():
    net = trained(1)
    with pytest.raises(DataError, match="only the first task"):
        learn(net, 1, pretrained=Mlp((24, 20)))
    net = untrained((24, 20))
    for other in (Mlp((24, 21)), mlp(FEATURES, (24, 20)), Residual((24, 20))):
        with pytest.raises(DataError, match="not the trunk"):
            learn(net, 0, pretrained=other)
    assert net.tasks == ()


def test_a_revision_answers_for_its_task_and_the_old_one_stays(tmp_path):
    net, x = trained(3, (60, 60)), held_out()
    before, digests = {t.name: net.task_logits(x, t.name) for t in net.tasks}, net.digests()
    net.revise_task("task 0", task_loader(0), **OPTIONS)
    fit(net)
    assert [t.label for t in net.tasks] == ["task 0 (revision 1)", "task 1", "task 2"]
    assert net.learned.block("t3").reads == ("t0", "t1", "t2")
    assert torch.equal(net.task_logits(x, "task 0", revision=0), before["task 0"])
    assert not torch.equal(net.task_logits(x, "task 0"), before["task 0"])
    for name, digest in digests.items():
        assert net.digests()[name] == digest
    routed = net(x, task=torch.zeros(9, dtype=torch.int64)).logits[:, :2]
    assert torch.equal(routed, net.task_logits(x, "task 0", revision=1))
    net.answer_with("task 0", 0)
    assert torch.equal(net.task_logits(x, "task 0"), before["task 0"])
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert [t.label for t in loaded.tasks] == ["task 0", "task 1", "task 2"]
    assert loaded.digests() == net.digests()
    loaded.revise_task("task 0", task_loader(0), **OPTIONS)
    assert loaded.tasks[0].revision == 2
    assert loaded.capacity()["layers.0"].keys() >= {"task 0", "task 0 (revision 1)", "task 0 (revision 2)"}


def test_a_revision_that_is_not_there_is_refused():
    net = trained(1)
    with pytest.raises(DataError, match="revision 3"):
        net.answer_with("task 0", 3)
    with pytest.raises(DataError, match="no task"):
        net.revise_task("nothing", task_loader(0))


class Digits(EideticNetwork):
    """A network as a subclass, as a user may write it."""

    def __init__(self, width: int = 20) -> None:
        super().__init__(Mlp((width, width)), torch.zeros(2, FEATURES), seed=5)


def test_a_subclass_is_a_network_like_any_other(tmp_path):
    net = Digits(16)
    learn(net, 0)
    net.save(tmp_path)
    loaded = Digits.load(tmp_path)
    assert type(loaded) is Digits
    assert loaded.digests() == net.digests()
