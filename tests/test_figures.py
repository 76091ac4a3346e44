"""Figures in documents are those of the committed results, which reach what was promised."""

import json
import re
from pathlib import Path

from benchmarks import capacity
from eideticnet import Routing
from tests.support.small_networks import QUICK, task_loader, trained

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PERFORMANCE = (ROOT / "docs/performance.md").read_text()


def figures_of(bench):
    return json.loads((ROOT / f"benchmarks/results/{bench}.json").read_text())["figures"]


def shown(words, decimals, page=PERFORMANCE):
    """The numbers with ``decimals`` decimals in the page's one table row that begins with ``words``."""
    (row,) = [line for line in page.splitlines() if line.startswith(f"| {words}")]
    return [float(number) for number in re.findall(rf"-?\d+\.\d{{{decimals}}}", row)]


def test_the_figures_are_those_of_the_committed_results():
    figures = figures_of("train")
    rows = {
        "oracle accuracy": "digits5.oracle",
        "routed accuracy": "digits5.routed",
        "plain network on": "digits5.plain",
        "routed minus plain,": "digits5.routed_minus_plain",
    }
    for words, key in rows.items():
        assert shown(words, 4) == [round(figures[key], 4), round(figures[f"{key}.ci95"], 4)]
    assert figures["digits5.drift"] == 0.0
    pruned = figures_of("routing")
    for words, found, key in (
        ("accuracy, task found", figures, ("digits5.routed", "digits5.plain")),
        ("accuracy, task given", figures, ("digits5.oracle",)),
        ("the same with the router", pruned, ("answer.digits5.routed",)),
    ):
        expected = [round(100 * found[k + part], 2) for k in key for part in ("", ".ci95")]
        assert shown(words, 2, README) == expected, words
    assert shown("multiply-adds of that", 2, README) == [round(figures["digits5.madds"], 2)]
    assert shown("and its multiply-adds", 2, README) == [round(pruned["answer.digits5.madds"], 2)]
    seeds = json.loads((ROOT / "benchmarks/results/train.json").read_text())["details"]["eidetic"]
    shares = [multiply_adds(64, *seed["neurons"].values()) / (64 * 256 + 256 * 256 + 2560) for seed in seeds]
    assert f"takes {sum(shares) / len(shares):.2f} of the plain network's multiply-adds" in PERFORMANCE


def multiply_adds(inputs, first, second):
    """Of an answer of an MLP of two layers: whose each layer's neurons are, in the order of learning; the
    router, last, reads both layers."""
    total = before = heads = 0
    for owner in [name for name in first if name != "free"]:
        before, heads = before + first[owner], heads + second[owner]
        read = before + heads if owner == "router" else heads
        total += inputs * first[owner] + before * second[owner] + read * (10 if owner == "router" else 2)
    return total


def test_the_table_of_exported_graphs_is_that_of_the_committed_results():
    figures = figures_of("export")
    rows = {"MLP 784-2000-2000": "mlp.b1", "MLP, batch 8 |": "mlp.b8", "MLP, batch 32 |": "mlp.b32"}
    for words, key in {**rows, "ConvNet 4x160, five": "conv.b8"}.items():
        expected = [round(figures[f"nested.{key}{part}"], 2) for part in ("", ".cold", ".limit")]
        assert shown(words, 2)[-3:] == expected, words
    for text in (
        f"{figures['pruned.digits5.size']:.2f} of the size",
        f"{figures['resnet50.seconds']:.0f} seconds with a peak of {figures['resnet50.peak_gib']:.2f} GiB",
    ):
        assert text in PERFORMANCE


def test_the_table_of_serving_is_that_of_the_committed_results():
    result = json.loads((ROOT / "benchmarks/results/serving.json").read_text())
    figures = result["figures"]
    rows = {
        "raw float32, 8 c": "raw.c8.vs_mosec",
        "raw float32, 32 c": "raw.c32.vs_mosec",
        "JSON, 32 connections": "json.c32.vs_mosec",
        "one connection, p50 against FastAPI |": "raw.c1.p50_vs_fastapi",
        "the same with `--profile latency`": "raw.c1.p50_vs_fastapi.latency_profile",
        "ResNet-18, 32": "resnet18.c32.vs_bare",
        "twenty deploys": "hotload.p99_ratio",
    }
    for words, key in rows.items():
        assert shown(words, 2) == [round(figures[key], 2)], words
    routed = result["details"]["served.vs_plain"]
    programs = ("python_us", "java_us", "mosec_us")
    here, there = (sum(routed["medians"][name].get(p, 0) for p in programs) for name in ("ours", "mosec"))
    used = result["details"]["raw.c32.vs_mosec"]["medians"]
    for text in (
        f"has {figures['served.vs_plain']:.2f} times the rate that its plain network has on mosec",
        f"single rounds have {routed['spread']['min']:.2f} to {routed['spread']['max']:.2f}",
        f"a request takes {here:.0f} microseconds here and {there:.0f} there",
        f"In those deploys {figures['hotload.failed']:.0f} requests failed",
        f"the slowest answer took {figures['hotload.open.max_ms']:.0f} ms",
        f"it takes {figures['start.seconds']:.1f} s",
        f"({used['ours']['python_us']:.0f} microseconds a request in the worker",
        f"and {used['ours']['java_us']:.0f} in TorchServe's front end",
        f"mosec's worker takes {used['mosec']['python_us']:.0f}",
        f"and its front end {used['mosec']['mosec_us']:.0f}",
        f"at batch 32, {1e6 / used['bare']['rate']:.0f})",
        f"its p50 is {figures['raw.c1.p50_vs_fastapi.latency_profile']:.2f} of FastAPI's",
        f"it has {used['latency']['rate'] / used['ours']['rate']:.2f} of the default's rate",
    ):
        assert text in PERFORMANCE.replace("\n", " "), text


def test_the_page_of_capacity_is_what_the_results_give():
    text = capacity.PAGE.read_text()
    assert capacity.page(text) == text
    assert len(list(capacity.costs())) >= 2


def test_the_table_of_growth_is_that_of_the_committed_result():
    figures = figures_of("scale")
    columns = (".pages", ".b1", ".b32", ".b1.madds", ".b1.nested", ".b32.nested", ".b1.nested.madds")
    rows = {
        "| 5 tasks": "mlp.t5",
        "| 20 tasks": "mlp.t20",
        "| 50 tasks |": "mlp.t50",
        "| 100 tasks": "mlp.t100",
    }
    rows |= {"| 50 tasks of": "uneven.t50", "| ResNet-18, 15": "resnet18.t15"}
    for start, name in rows.items():
        (line,) = [line for line in PERFORMANCE.splitlines() if line.startswith(start)]
        values = [*(figures[name + column] for column in columns), figures[f"export.{name}"]]
        assert line.split(" | ")[1:] == [
            f"{values[0]:.0f}",
            *(f"{v:.2f}" for v in values[1:-1]),
            f"{values[-1]:.2f} |",
        ]
    assert all(figures[f"export.{name}"] <= 3 for name in ("mlp.t100", "resnet18.t15"))
    for name in ("mlp.t10", "mlp.t50", "mlp.t100", "resnet18.t5", "resnet18.t15", "resnet18.t30"):
        kind, _, tasks = name.partition(".t")
        row = {"mlp": "MLP 784, two layers of 16 neurons a task", "resnet18": "ResNet-18 on 3x32x32"}[kind]
        assert f"| {row} | {tasks} | {figures[f'step.{name}']:.2f} |" in PERFORMANCE
    assert all(figures[f"step.{name}"] <= 0.6 for name in ("mlp.t50", "resnet18.t15", "resnet18.t30"))
    grown = [f"{figures[f'mlp.grown.t{t}.b{b}']:.2f}" for t in (5, 20, 50) for b in (1, 32)]
    wide = [f"{figures[key]:.2f}" for key in (*(f"mlp.wide.b{b}" for b in (1, 8, 32)), "conv.wide.b8")]
    blocks = [
        f"{figures[f'{key}.nested']:.2f}" for key in (*(f"mlp.wide.b{b}" for b in (1, 8, 32)), "conv.wide.b8")
    ]
    for text in (
        "take {}, {} and {} (batch 1, 8 and 32), and {} (batch 8)".format(*wide),
        "where blocks take {}, {}, {} and {} in the same run".format(*blocks),
        "take {} and {} of the dense graph's time (batch 1 and 32) with 5".format(*grown[:2]),
        "{} and {} with 20, {} and {} with 50".format(*grown[2:]),
        f"4 to 28 neurons {figures['uneven.t50.idle']:.2f} of the slots are idle",
    ):
        assert text in PERFORMANCE.replace("\n", " "), text
    for batch in (1, 32):
        most = {5: 1.10, 20: 1.05, 50: 1.00, 100: 0.80}
        assert all(figures[f"mlp.t{tasks}.b{batch}"] <= limit for tasks, limit in most.items())
        assert figures[f"resnet18.t15.b{batch}"] <= 0.80


def test_the_routing_and_step_tables_are_those_of_the_committed_results():
    routing = figures_of("routing")
    problems = ("digits5", "mnist5")
    rows = {
        "task given": "oracle",
        "task found, default": "routed",
        "task found, most accurate": "best.routed",
        "plain network |": "plain",
        "default minus plain": "routed_minus_plain",
        "most accurate minus plain": "best.routed_minus_plain",
        "routed with no": "memory0.routed",
    }
    for words, key in rows.items():
        keys = [f"{p}.{key}{ci}" for p in problems for ci in ("", ".ci95")]
        assert shown(words, 2) == [round(100 * routing[k], 2) for k in keys], words
    for words, key in {"default router's": "madds", "most accurate router's": "best.madds"}.items():
        found = shown(f"multiply-adds of the {words}", 2)
        assert found == [round(routing[f"{p}.{key}"], 2) for p in problems], words
    answers = {
        "multiply-adds of an answer": "madds",
        "its time": "time",
        "unpruned, multiply": "unpruned.madds",
    }
    for words, key in answers.items():
        assert shown(words, 2) == [round(routing[f"answer.{p}.{key}"], 2) for p in problems], words
    for words, key in {"routed, %": "routed", "unpruned, routed": "unpruned.routed"}.items():
        assert shown(words, 2) == [round(100 * routing[f"answer.{p}.{key}"], 2) for p in problems], words
    losses = [routing[f"answer.{p}.loss{ci}"] for p in problems for ci in ("", ".ci95")]
    assert shown("what pruning loses", 2) == [round(loss, 2) for loss in losses]
    alike, constant = (100 * routing[f"answer.mnist5.{p}.routed"] for p in ("unpruned_annealed", "half"))
    assert f"whose rate falls in the same way reaches {alike:.2f}" in PERFORMANCE
    assert f"router\nreaches {constant:.2f}" in PERFORMANCE
    train = figures_of("train")
    for words, key in {"four of five": "frozen4of5", "one block that": "frozen0"}.items():
        assert shown(words, 2) == [round(train[f"step.{net}.{key}"], 2) for net in ("mlp", "conv")]


def test_the_committed_results_reach_what_was_promised():
    result = json.loads((ROOT / "benchmarks/results/train.json").read_text())
    assert result["bench"] == "train"
    assert result["device"]
    assert result["details"]["seeds"] == list(range(10))
    figures = result["figures"]
    assert figures["digits5.oracle"] >= 0.990
    assert figures["digits5.routed"] >= figures["digits5.plain"] - 0.01
    assert max(figures["step.mlp.frozen4of5"], figures["step.conv.frozen4of5"]) <= 0.6
    assert max(figures["step.mlp.frozen0"], figures["step.conv.frozen0"]) <= 1.1
    assert figures["trace.resnet50.seconds"] < 5
    assert figures["train.memory"] <= 1.2
    assert f"takes {figures['train.memory']:.2f} times the memory of a plain loop" in PERFORMANCE
    assert figures["memory.ratio"] <= 1.05
    assert figures["digits5.drift"] == 0.0


def test_the_committed_routing_results_are_whole_and_reach_what_they_must():
    result = json.loads((ROOT / "benchmarks/results/routing.json").read_text())
    figures, seeds = result["figures"], result["details"]["seeds"]
    assert [seed["seed"] for seed in seeds["digits5"]] == list(range(10))
    assert figures["digits5.drift"] == figures["mnist5.drift"] == 0.0
    assert figures["mnist5.oracle"] >= 0.995
    assert figures["mnist5.routed"] >= 0.986
    assert figures["digits5.memory0.routed"] >= figures["digits5.plain"] - 0.005
    for problem in seeds:  # level with the plain network; the cheap default is not, and says so
        least = -figures[f"{problem}.best.routed_minus_plain.ci95"]
        assert figures[f"{problem}.best.routed_minus_plain"] >= least
    assert figures["answer.digits5.madds"] <= 0.30
    assert figures["answer.mnist5.madds"] <= 1.0
    assert max(figures["answer.digits5.loss"], figures["answer.mnist5.loss"]) <= 0.1
    assert figures["answer.mnist5.time"] <= 1.0
    for problem in seeds:
        before = figures[f"{problem}.ece.before"]
        assert figures[f"{problem}.ece"] <= before + figures[f"{problem}.ece.before.ci95"]
        assert figures[f"{problem}.ece"] < 0.02


def test_the_default_router_is_the_one_that_the_rule_chose():
    result = json.loads((ROOT / "benchmarks/results/routing.json").read_text())
    assert result["details"]["default"] == ["taps, pruned", "hard", "all"]
    net = trained(1, router=False)
    mine = {"task 0": task_loader(0)}
    net.fit_router(mine, validation=mine, training=QUICK)
    assert net.learned.routing.router == "taps"
    assert Routing().router_pruning is not None


def test_what_a_fault_on_ray_costs_is_as_the_page_says_and_nothing_is_lost_by_who_tries_again():
    figures, page = figures_of("ray"), (ROOT / "docs/decisions/ray.md").read_text()
    rows = {
        "ten deploys": "deploys",
        "a replica killed": "replica_killed",
        "Serve's controller killed": "controller_killed",
        "a node removed": "node_removed",
        "it comes back": "node_added",
    }
    for words, key in rows.items():
        assert figures[f"{key}.failed"] == 0
        expected = [round(figures[f"{key}.{what}"], 1) for what in ("whole_s", "longest_s")]
        assert shown(words, 1, page) == expected
        assert f"| 0 | {figures[f'{key}.failed.bare']:.0f} |" in next(
            line for line in page.splitlines() if line.startswith(f"| {words}")
        )


def test_what_compiling_gains_is_that_of_the_committed_result():
    figures = figures_of("compiled")
    one, many = ([figures[f"compiled.b{rows}.vs_{other}"] for other in ("pt2", "onnx")] for rows in (1, 32))
    assert (
        f"takes {one[0]:.2f} of the time of the `.pt2` as it is at batch 1 and {many[0]:.2f}" in PERFORMANCE
    )
    assert f"of whose time that is {one[1]:.2f} and {many[1]:.2f}" in PERFORMANCE
    assert f"Compiling took {figures['compiled.seconds']:.0f} seconds" in PERFORMANCE
    assert figures["compiled.difference"] <= 1e-5
