"""Every router and every decision, on real networks."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eideticnet import CheckpointError, ConfigError, EideticNetwork, FittedRouting, Routing
from eideticnet.block import Block
from eideticnet.decision import Decision, RouterKind, decide
from eideticnet.learned import ROUTER
from eideticnet.program import HEAD, Features, Step
from eideticnet.rules import RULES, with_taps
from eideticnet.trace.tracing import trace
from tests.support.example_counts import examples, often
from tests.support.small_networks import LIGHT, QUICK, held_out, names, task_data, task_loader, trained
from tests.support.small_trunks import FEATURES, TRUNKS

KINDS = get_args(RouterKind)


def routings():
    for router in KINDS:
        for decision in ("entropy",) if router == "none" else ("hard", "joint"):
            yield Routing(router, decision)


def routed(routing, tasks=3, trunk=TRUNKS[0]):
    net = trained(tasks, router=False, trunk=trunk, moments=16)
    loaders = {t.name: task_loader(i, len(t.classes)) for i, t in enumerate(net.tasks)}
    net.fit_router(loaders, routing=routing, training=QUICK, validation=loaders)
    return net


def name(routing):
    return f"{routing.router}-{routing.decision}"


@pytest.mark.parametrize("routing", list(routings()), ids=name)
def test_a_router_answers_with_the_chosen_heads_own_label_and_survives_saving(routing, tmp_path):
    net, x = routed(routing), held_out(20)
    out = net(x)
    assert torch.equal(out.task, out.task_probs.argmax(1))
    assert torch.allclose(out.task_probs.sum(1), torch.ones(20))
    for i, task in enumerate(out.task.tolist()):
        own = net.task_logits(x, net.tasks[task].name)[i]
        assert int(out.label[i]) == int(own.argmax())
    net.save(tmp_path)
    loaded = EideticNetwork.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(out, loaded(x), strict=True))
    assert loaded.learned.routing == net.learned.routing
    assert loaded.digests() == net.digests()


@pytest.mark.parametrize(
    "routing", often(routings(), [r for r in routings() if r.decision != "joint"]), ids=name
)
def test_no_router_changes_a_task_or_keeps_the_next_one_from_being_learned(routing):
    net, x = routed(routing), held_out()
    before = trained(3, router=False, moments=16)
    for task in net.tasks:
        assert torch.equal(net.task_logits(x, task.name), before.task_logits(x, task.name))
    assert net.digests() == before.digests()
    for n in (net, before):
        n.train_task("next", task_loader(9), names(2), training=QUICK, pruning=LIGHT)
    assert net.digests() == before.digests()
    assert net.learned.routing is None


@pytest.mark.parametrize("router", ["linear", "none", "moments"])
def test_some_routers_own_no_neuron_of_the_trunk(router):
    decision = "entropy" if router == "none" else "hard"
    net = routed(Routing(router, decision))
    assert all(row.get(ROUTER, 0) == 0 for row in net.capacity().values() if row["total"])


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_head_of_a_tapping_router_reads_every_value_that_a_layer_reads(trunk):
    net = routed(Routing("taps"), trunk=trunk)
    block = net.learned.router()
    head = block.program.steps[-1]
    last = net.program.steps[-1].inputs[0]
    assert head.inputs[-1] == last or last in head.inputs
    assert len(head.inputs) > 1
    assert block.layer(HEAD).in_features > _columns(net, last)
    assert net.program.steps[-1].rule == "linear", "the tasks' own program is as it was"


def _columns(net, value):
    runs = net.program.features[value].runs
    return sum(widths[r.group] * r.repeat for widths in net.learned.owned().values() for r in runs)


def test_a_tap_of_a_value_with_positions_is_its_mean_over_them():
    step = Step(HEAD, "taps", ("wide", "flat"), Features(), HEAD, {"dims": [2, 1]})
    wide, flat = torch.randn(3, 4, 5), torch.randn(3, 2)
    read = RULES["taps"].run(step, nn.Identity(), [wide, flat], False)
    assert torch.allclose(read, torch.cat([wide.mean(1), flat], 1))


@examples(8, 25)
@given(seed=st.integers(0, 100), trunk=st.sampled_from(TRUNKS[1:3]))
def test_pruning_a_tapping_block_is_the_same_as_silencing_its_neurons(seed, trunk):
    program = with_taps(trace(trunk((8, 6)), torch.zeros(2, FEATURES)))
    torch.manual_seed(seed)
    first = Block(program, "t0", (), {"t0": {**dict.fromkeys(program.groups, 3), HEAD: 2}}).eval()
    widths = {"t0": first.widths["t0"], "r": {**program.groups, HEAD: 4}}
    block = Block(program, "r", ("t0",), widths).eval()
    keep = {g: torch.randperm(n)[: n // 2].sort().values for g, n in program.groups.items()}
    x = torch.randn(5, FEATURES)
    earlier = {"t0": first(x, {})}
    same = block.shrink({g: torch.arange(n) for g, n in program.groups.items()})
    assert torch.equal(same(x, earlier)[HEAD], block(x, earlier)[HEAD])
    smaller = block.shrink(keep)
    pieces = smaller(x, earlier)
    head, inputs = block.layer(HEAD), program.steps[-1].inputs
    kept, start = [], 0
    for value in inputs:
        (run,) = program.features[value].runs
        mine = keep[run.group]
        kept += [torch.arange(start, start + 3), start + 3 + mine]
        start += 3 + program.groups[run.group]
    assert torch.equal(smaller.layer(HEAD).weight, head.weight[:, torch.cat(kept)])
    values = torch.cat([torch.cat([earlier["t0"][v], pieces[v]], 1) for v in inputs], 1)
    assert torch.allclose(smaller.layer(HEAD)(values), pieces[HEAD])


counts_strategy = st.lists(st.integers(2, 5), min_size=1, max_size=5)


@examples(8, 25)
@given(
    counts=counts_strategy,
    seed=st.integers(0, 1000),
    decision=st.sampled_from(get_args(Decision)),
    temperature=st.floats(0.05, 20),
)
def test_a_decision_is_a_distribution_over_tasks_whatever_the_temperatures(
    counts, seed, decision, temperature
):
    generator = torch.Generator().manual_seed(seed)
    heads = [5 * torch.randn(9, c, generator=generator) for c in counts]
    router = None if decision == "entropy" else 5 * torch.randn(9, sum(counts), generator=generator)
    fitted = FittedRouting("block", decision, temperature, (temperature,) * len(counts))
    probs = decide(fitted, heads, router)
    assert probs.shape == (9, len(counts))
    assert torch.isfinite(probs).all()
    assert torch.allclose(probs.sum(1), torch.ones(9))


def test_hard_follows_the_router_joint_weighs_the_heads_and_entropy_takes_the_surest():
    unsure, sure = torch.tensor([[0.1, 0.0]]), torch.tensor([[9.0, 0.0, 0.0]])
    router = torch.tensor([[0.6, 0.0, 0.3, 0.0, -9.0]])
    hard, joint = (decide(FittedRouting("block", d), [unsure, sure], router) for d in ("hard", "joint"))
    assert hard.argmax(1).tolist() == [0]
    assert joint.argmax(1).tolist() == [1]
    best = torch.stack([h.softmax(1).amax(1) for h in (unsure, sure)], 1)
    assert torch.allclose(joint, hard * best / (hard * best).sum(1))
    assert decide(FittedRouting("none", "entropy"), [unsure, sure], None).argmax(1).tolist() == [1]


def test_entropy_compares_heads_of_different_size_by_their_own_greatest():
    flat = [torch.zeros(1, 2), torch.zeros(1, 5)]
    probs = decide(FittedRouting("none", "entropy"), flat, None)
    assert torch.allclose(probs, torch.full((1, 2), 0.5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"router": "forest"}, "router 'forest': use linear, block"),
        ({"decision": "vote"}, "decision 'vote': use hard"),
        ({"router": "none"}, 'left when the router is "none"'),
        ({"decision": "entropy"}, 'left when the router is "none"'),
        ({"false_rejections": 1.0}, "false_rejections 1.0"),
    ],
)
def test_an_impossible_routing_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Routing(**arguments)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["routing"].update(threshold=0.5),
        lambda m: m["routing"].update(decision="joint"),
        lambda m: m.update(routing=None),
        lambda m: m["routing"].update(decision="vote"),
        lambda m: m["routing"].update(router="auto"),
    ],
)
def test_a_changed_rule_is_noticed_when_a_checkpoint_is_read(change, tmp_path):
    import json

    trained(2).save(tmp_path)
    manifest = json.loads((tmp_path / "network.json").read_text())
    change(manifest)
    (tmp_path / "network.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"routing|decision|router"):
        EideticNetwork.load(tmp_path)


def test_a_router_on_moments_is_right_where_the_entropy_of_the_heads_is_not():
    moments, entropy = routed(Routing("moments")), routed(Routing("none", "entropy"))
    x = torch.cat([task_data(i, 2 + i % 2)[0] for i in range(3)])
    truth = torch.arange(3).repeat_interleave(48)
    shares = [float((net(x).task == truth).double().mean()) for net in (moments, entropy)]
    assert shares[0] > shares[1] + 0.2
