"""An experiment is made of runs that resume, and of nothing that a test set decided."""

import json
import os
import signal
import tomllib

import pytest
import torch

from eideticnet import EideticNetwork, batches
from eideticnet.__main__ import main
from eideticnet.errors import ConfigError
from eideticnet.experiments import mnist, results, settings
from eideticnet.experiments.measured import Measured, _among, forgotten, saw
from eideticnet.models import mlp
from eideticnet.runs import history
from tests.support import forked
from tests.support.cuda import needs_cuda
from tests.support.data_sets import write_experiment, write_imagenette, write_mnist
from tests.support.small_networks import LIGHT, QUICK, task_data
from tests.support.waiting import until

ONE = settings.Setting("", {}), 0


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a small MNIST, in which commands are run."""
    monkeypatch.setenv("EIDETIC_DATA", str(write_mnist(tmp_path / "mnist").parent))
    monkeypatch.chdir(tmp_path)
    mnist.read.cache_clear()
    yield tmp_path
    mnist.read.cache_clear()


def eidetic(*arguments):
    with pytest.raises(SystemExit) as end:
        main([*map(str, arguments)])
    return end.value.code


def one(file, run="seed-0", *more):
    """A single run of an experiment, in this process."""
    assert not eidetic("experiment", file, "--only", run, *more)


def digests(folder):
    net = EideticNetwork.load(folder)
    return net.digests(), [p.clone() for p in net.learned.router().state_dict().values()]


def test_what_was_killed_goes_on_and_ends_with_the_same_bits(here):
    file = write_experiment(here, "seeds = [3]")
    one(file, "seed-3", "--out", "whole", "--seeds", "3")
    broken, process = here / "broken/seed-3", forked.eidetic("experiment", file, "--out", "broken", cwd=here)
    until((broken / "seconds.json").exists)
    os.kill(process.pid, signal.SIGTERM)
    ended = process.end()
    assert ended.returncode == 128 + signal.SIGTERM, ended
    assert "the same command goes on with what is in broken" in ended.stderr
    assert not (broken / "figures.json").exists()
    one(file, "seed-3", "--out", "broken")  # in this process, which is faster
    assert not eidetic("experiment", file, "--out", "broken")  # and has nothing left to run
    for mine, other in zip(digests(broken), digests(here / "whole/seed-3"), strict=True):
        assert all(map(torch.equal, mine, other)) if isinstance(mine, list) else mine == other
    result = results.read(here / "runs/experiments/results/tiny.json")
    (run,) = result.runs[""].values()
    assert run.forgetting.learned == ["0 or 1", "2 or 3", "router"]
    assert (run.forgetting.compared, run.forgetting.changed) == (3, [])
    assert set(run.seconds) == {"0 or 1", "2 or 3", "router"}
    first = next(line for name, line in run.forgetting.lines.items() if name == "0 or 1")
    assert len(set(first)) == 1
    assert run.saw == "all"


def test_each_setting_of_a_sweep_is_a_run_and_a_complete_one_is_left_as_it_is(here, capsys):
    file = write_experiment(here, 'sweep = { "pruning.score" = ["l1", "l2"] }')
    one(file, "score=l1/seed-0")
    assert eidetic("experiment", file, "--only", "score=l3/seed-0") == 1
    assert "did you mean 'score=" in capsys.readouterr().err
    plan, out = settings.read(str(file)), here / "runs/experiments/tiny"
    result = results.gather(plan, out)
    assert list(result.runs) == ["score=l1"]  # what was not run is not told
    assert result.mean("oracle", "score=l1") > 0.5
    assert result.mean("oracle", "score=l2") is None
    before = (out / "score=l1/seed-0/figures.json").stat().st_mtime_ns
    one(file, "score=l2/seed-0")
    assert not eidetic("experiment", file)
    assert (out / "score=l1/seed-0/figures.json").stat().st_mtime_ns == before
    assert list(results.read(here / "runs/experiments/results/tiny.json").runs) == ["score=l1", "score=l2"]


def test_a_selection_reads_no_test_data_and_chooses_by_a_tenth_of_the_training_data(here):
    text = 'select = true\ntasks = 2\nsweep = { "pruning.step" = [0.4, 0.6] }'
    file = write_experiment(here, text, tasks=3)
    for path in (here / "mnist").glob("t10k*"):
        path.unlink()
    for run, chosen in (("step=0.4/seed-0", False), ("step=0.6/seed-0", True)):
        one(file, run)
        result = results.gather(settings.read(str(file)), here / "runs/experiments/tiny")
        assert (result.chosen is not None) == chosen, "nothing is, before all were run"
    result = results.gather(settings.read(str(file)), here / "runs/experiments/tiny")
    means = {name: result.mean("oracle", name) for name in result.runs}
    assert result.chosen == max(means, key=means.get)
    run = result.runs["step=0.4"]["0"]
    assert list(run.oracle.tasks) == ["0 or 1", "2 or 3"]
    net = EideticNetwork.load(here / "runs/experiments/tiny/step=0.4/seed-0")
    assert history.read(net).held_out == {"0 or 1": 4, "2 or 3": 4}  # of 40


def test_a_changed_logit_ends_the_run_and_publishes_nothing(here, capsys):
    file = write_experiment(here)
    one(file)
    folder = here / "runs/experiments/tiny/seed-0"
    net = EideticNetwork.load(folder)
    day = net.metadata["history"]["days"]["0 or 1"]
    day["logits"] = "0" * 64  # as if they had been others on the day
    net.save(folder)
    assert eidetic("experiment", file, "--only", "seed-0") == 1
    assert "the logits of '0 or 1' are not what they were when they were learned" in capsys.readouterr().err
    assert not results.gather(settings.read(str(file)), folder.parent).runs
    write_experiment(here, tasks=3)
    assert eidetic("experiment", file, "--only", "seed-0") == 1
    assert "after '4 or 5' was learned, the logits of '0 or 1'" in capsys.readouterr().err
    assert forgotten(EideticNetwork.load(folder)).changed == ["0 or 1"]


def test_a_task_that_was_pretrained_is_one_of_those_to_be_found_and_has_no_part_in_the_means(here):
    file = write_experiment(here, tasks=3)
    head, _, tasks = file.read_text().partition("[[tasks]]")
    arguments = tomllib.loads(head)["trunk"]["arguments"]
    given = ", ".join(f"{name} = {value}" for name, value in arguments.items())
    start = f'pretrained = "eideticnet.models:mlp"\npretrained_arguments = {{ {given} }}'
    file.write_text(f"{head}[[tasks]]\n{start}{tasks}")
    one(file)
    folder = here / "runs/experiments/tiny"
    run = results.gather(settings.read(str(file)), folder).runs[""]["0"]
    assert list(run.routed.tasks) == ["0 or 1", "2 or 3", "4 or 5"]
    for told in (run.oracle, run.task, run.routed):
        assert told.mean == pytest.approx(sum(list(told.tasks.values())[1:]) / 2)
    assert list(run.among.tasks) == ["2 or 3", "4 or 5"]
    assert run.routed.mean <= run.among.mean <= run.oracle.mean


def test_where_tasks_have_classes_of_one_name_it_is_told_how_often_the_name_is_right(here):
    file = write_experiment(here, 'sweep = { label_space = ["separate", "shared"] }')
    file.write_text(file.read_text().replace('classes = ["2", "3"]', 'classes = ["2", "1"]'))
    for space in ("separate", "shared"):
        one(file, f"label_space={space}/seed-0")
    runs = results.gather(settings.read(str(file)), here / "runs/experiments/tiny").runs
    separate, shared = (runs[f"label_space={space}"]["0"] for space in ("separate", "shared"))
    assert shared.named == shared.routed
    for task, of in separate.routed.classes.items():
        assert all(separate.named.classes[task][name] >= share for name, share in of.items())


def test_a_run_on_another_machine_compares_from_the_day_that_it_went_on_there(here, monkeypatch):
    file = write_experiment(here)
    one(file)
    folder = here / "runs/experiments/tiny/seed-0"
    net = EideticNetwork.load(folder)
    for day in net.metadata["history"]["days"].values():
        day |= {"logits": "0" * 64, "where": "another machine"}
    net.save(folder)
    write_experiment(here, tasks=3)
    one(file)
    days = history.read(EideticNetwork.load(folder)).days
    assert not {day.where for day in days.values()} & {"another machine"}


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ('router_data = "kept"\nmemory = 6\n', "memory 6"),
        ('router_data = "kept"\nmoments = 32\n', "none"),
    ],
)
def test_a_router_that_may_not_see_old_data_sees_what_is_kept_alone(here, monkeypatch, top, expected):
    file = write_experiment(here)
    router = "moments" if "moments" in top else "linear"
    file.write_text(top + file.read_text().replace('router = "linear"', f'router = "{router}"'))
    given, fit = [], EideticNetwork.fit_router
    monkeypatch.setattr(
        EideticNetwork,
        "fit_router",
        lambda net, loaders, **rest: given.append([*loaders]) or fit(net, loaders, **rest),
    )
    one(file)
    assert given == [["2 or 3"]]
    (run,) = results.gather(settings.read(str(file)), here / "runs/experiments/tiny").runs[""].values()
    assert run.saw == expected
    assert (run.bytes.memory > 0) == ("memory" in top)
    assert (run.bytes.moments > 0) == ("moments" in top)


def test_what_a_router_saw_is_told_by_what_it_was_given(here):
    file = write_experiment(here)
    config = settings.read(str(file)).config(settings.Setting("", {}), 0)
    assert [saw(config, kind) for kind in ("taps", "moments", "none")] == ["all", "none", "none"]
    calibrated = config.model_copy(update={"validation": 0.1})
    assert saw(calibrated, "moments") == "all"  # its probabilities are fitted on all tasks' validation data


def test_what_a_baseline_wrote_is_taken_into_the_result_while_its_configuration_is_the_same(here):
    file = write_experiment(here)
    plan = settings.read(str(file))
    told = {"given": {"mean": 0.5}, "fingerprint": settings.fingerprint_of_baseline(plan.config(*ONE))}
    folder = here / "out/baselines/joint"
    folder.mkdir(parents=True)
    for name in ("seed-0", "seed-0 (copy)", "seed-old"):
        (folder / f"{name}.json").write_text(json.dumps(told))
    (here / "out/seed-old").mkdir()
    (here / "out/seed-old/figures.json").write_text("{}")
    assert results.gather(plan, here / "out").baselines == {"joint": {"0": told}}
    file.write_text(file.read_text().replace('router = "linear"', 'router = "taps"'))
    assert results.gather(settings.read(str(file)), here / "out").baselines["joint"]  # which has no router
    file.write_text(file.read_text().replace("max_epochs = 3", "max_epochs = 4"))
    assert results.gather(settings.read(str(file)), here / "out").baselines == {"joint": {}}


def test_a_run_is_finished_by_the_configuration_that_it_was_measured_with(here):
    file = write_experiment(here)
    one(file)
    out = here / "runs/experiments/tiny"
    text = file.read_text()
    for change in (text + "\n# a word", text.replace("[trunk]", 'when_full = "refuse"\n[trunk]')):
        file.write_text(change)
        assert results.gather(settings.read(str(file)), out).runs
    file.write_text(text.replace('router = "linear"', 'router = "none"\ndecision = "entropy"'))
    plan = settings.read(str(file))
    assert not results.gather(plan, out).runs
    one(file)  # the router alone is new
    (run,) = results.gather(plan, out).runs[""].values()
    assert (run.router, run.saw) == ("none", "none")
    figures = out / "seed-0/figures.json"
    told = json.loads(figures.read_text())
    del told["figures"]["routed"]  # as another version might tell them
    for left in (json.dumps(told), "{"):  # the latter as a full disk leaves it
        figures.write_text(left)
        assert not results.gather(plan, out).runs


def test_a_result_names_nothing_of_the_machine_but_its_chip_and_is_read_as_it_was_written(here):
    file = write_experiment(here)
    one(file)
    result = results.gather(settings.read(str(file)), here / "runs/experiments/tiny")
    written = results.write(result, here / "results")
    assert results.read(written) == result
    assert str(here) not in written.read_text()
    assert set(Measured.model_fields) == set(next(iter(result.runs[""].values())).model_dump())
    written.write_text("{}")
    with pytest.raises(ConfigError, match="is no result of an experiment at"):
        results.read(written)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = []", "seeds"),
        ('sweep = { "trunk.target.x" = [1] }', "'trunk.target.x': target is no table"),
        ('sweep = { "pruning.stepp" = [1] }', "did you mean 'step'"),
        ('base = "tiny"', "base 'tiny' is based on itself"),
        ('base = "mnist"', "did you mean"),
        ("titel = 1", "did you mean 'title'"),
        ('baselines = ["ewcc"]', "baselines"),
        ('baselines = ["joint", "ewc"]', "ewc needs validation = 0.1"),
        ('baselines = ["replay"]', "replay needs memory = 200"),
    ],
)
def test_what_is_wrong_with_an_experiment_is_said_before_anything_runs(here, capsys, text, words):
    assert eidetic("experiment", write_experiment(here, text)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_an_unknown_experiment_and_a_bad_seed_are_told_in_a_line(here, capsys):
    assert eidetic("experiment", "mnits5") == 1
    assert "there is no experiment 'mnits5'; did you mean 'mnist5'" in capsys.readouterr().err
    for seeds in ("1,x", "0,-1"):
        assert eidetic("experiment", "mnist5", "--seeds", seeds) == 1
        assert f"--seeds {seeds}: give whole numbers from 0 with commas" in capsys.readouterr().err
    assert eidetic("experiment", "mnist5", "--data", "/no/such") == 1
    assert "/no/such: there is no such folder" in capsys.readouterr().err
    assert eidetic("experiment", write_experiment(here), "--device", "cuda:7") == 1
    assert "torch can use 'cpu'" in capsys.readouterr().err


@pytest.mark.parametrize("name", settings.names())
def test_every_experiment_that_comes_with_the_package_can_be_read(name):
    plan = settings.read(name)
    assert plan.name == name
    for setting in plan.settings:
        config = plan.config(setting, 0)
        assert all(task.data.startswith("eideticnet.experiments.") for task in config.tasks)
    assert set(plan.experiment.paper.settings) <= {setting.name for setting in plan.settings}
    classes = sum(len(task.classes) for task in plan.config(plan.settings[0], 0).tasks)
    published = [plan.experiment.paper, *plan.experiment.paper.settings.values()]
    for told in published:
        assert len(told.oracle_by_class) in (0, classes)
        assert len(told.routed_by_class) in (0, classes)
        assert len(told.oracle_by_task) in (0, len(plan.config(plan.settings[0], 0).tasks))


@pytest.mark.gpu
def test_a_run_on_a_gpu_forgets_nothing_and_goes_on_there(here):
    needs_cuda()
    file = write_experiment(here)
    one(file, "seed-0", "--device", "cuda")
    write_experiment(here, tasks=3)
    one(file, "seed-0", "--device", "cuda")
    (run,) = results.gather(settings.read(str(file)), here / "runs/experiments/tiny").runs[""].values()
    assert (run.forgetting.changed, run.clock) == ([], "wall")
    assert run.device == torch.cuda.get_device_name()
    assert run.forgetting.compared == 3 + 5


@pytest.mark.slow
def test_resnet_50_learns_from_folders_of_images_for_a_few_steps(here, monkeypatch):
    from eideticnet.experiments import imagenette

    write_imagenette(here, list(imagenette.NAMES)[:4], 12)
    plan = settings.read("imagenette5")
    text = plan.file.read_text().replace("128, 128", "32, 32").replace('device = "cuda"', "")
    head, *tasks = text.split("[[tasks]]")
    head = head.replace("patience = 10", "patience = 1\nmax_epochs = 1").replace(
        "settle_patience = 1\nmax_epochs = 1", "settle_patience = 1"
    )
    head = head.replace("step = 0.05", "step = 0.5").replace(
        'models:resnet50"', 'models:resnet50"\narguments = { width = 8 }'
    )
    head = head.replace("oracle_by_task = [88.0, 67.0, 81.0, 84.0, 77.0]", "")
    tasks = [
        task.replace('"] }', '"], size = 32 }').replace('part = "test" }', 'part = "test", size = 32 }')
        for task in tasks[:2]
    ]
    (here / "few.toml").write_text("[[tasks]]".join([head, *tasks]))
    one(here / "few.toml", "seed-0", "--out", "few")
    net = EideticNetwork.load(here / "few/seed-0")
    assert [task.name for task in net.tasks] == ["tench or English springer", "cassette player or chain saw"]


def test_nothing_runs_on_more_than_one_thread_of_a_cpu():
    plan = settings.read("mnist5")
    assert plan.config(plan.settings[0], 0).threads == 1
    assert plan.config(plan.settings[0], 0, "cuda").threads is None


def test_data_that_is_not_there_is_told_once_and_no_run_begins(here, monkeypatch, capsys):
    file = write_experiment(here, "seeds = [0, 1, 2]")
    file.write_text(file.read_text().replace("eideticnet.experiments.mnist", "absent"))
    (here / "absent.py").write_text(
        "from eideticnet.errors import DataError\n"
        "def __getattr__(name):\n"
        "    if name.startswith('__'):\n"
        "        raise AttributeError(name)\n"
        "    def read(**arguments):\n"
        "        raise DataError('FOLDER holds no files of MNIST')\n"
        "    return read\n"
    )
    assert eidetic("experiment", file) == 1
    said = capsys.readouterr().err
    assert said.count("holds no files of MNIST") == 1
    assert len(said.strip().splitlines()) == 1
    assert not (here / "runs").exists()


def test_what_a_baseline_wrote_counts_while_what_it_reads_is_the_same(here):
    file = write_experiment(here)
    folder = here / "out/baselines/joint"
    folder.mkdir(parents=True)

    def found():
        return results.gather(settings.read(str(file)), here / "out").baselines["joint"]

    (folder / "seed-0.json").write_text(json.dumps({"given": {"mean": 0.5}}))
    assert not found()  # nobody knows of which configuration
    for fingerprint in settings.fingerprints_of_baseline(settings.read(str(file)).config(*ONE)):
        told = {"given": {"mean": 0.5}, "fingerprint": fingerprint}
        (folder / "seed-0.json").write_text(json.dumps(told))
        assert found() == {"0": told}
    text = file.read_text()
    (folder / "seed-0.json").write_text(json.dumps(told | {"fingerprint": _fingerprint(file)}))
    for change in ('when_full = "reuse"\n', "moments = 32\n", 'probes = "real"\n', "planned_tasks = 4\n"):
        file.write_text(change + text)
        assert found(), change
    for change in ("memory = 5\n", "validation = 0.2\n", "test = 0.3\n"):
        file.write_text(change + text)
        assert not found(), change


def _fingerprint(file):
    return settings.fingerprint_of_baseline(settings.read(str(file)).config(*ONE))


def test_among_tasks_that_share_their_labels_a_class_is_right_whichever_says_it():
    x, y = task_data(0, rows=60)
    net = EideticNetwork(mlp(x.shape[1], (16, 12)), x[:2], label_space="shared")
    loaders = {name: batches(*task_data(seed, rows=60), 20) for seed, name in enumerate("abc")}
    for name, classes in zip("abc", (["u", "v"], ["v", "w"], ["v", "u"]), strict=True):
        net.train_task(name, loaders[name], classes, training=QUICK, pruning=LIGHT)
    net.fit_router(loaders, training=QUICK)
    found = _among(net, loaders, ["a"])
    assert found.keys() == {"b", "c"}
    for task, of in found.items():
        x, y = task_data("abc".index(task), rows=60)
        with torch.no_grad():
            among = net(x).task_probs.clone()
            among[:, 0] = -1
            said = net(x, among.argmax(1)).label
        for place, name in enumerate(net.task(task).classes):
            mine = said[y == place]
            assert of[name] == pytest.approx(float((mine == net.classes.index(name)).double().mean()))
