"""``eidetic demo`` in a real browser, beside a real server of the digits."""

import io
import json

import numpy as np
import psutil
import pytest
import torch
from onnx import numpy_helper
from PIL import Image, ImageDraw

from eideticnet import EideticNetwork, Routing, batches
from eideticnet.experiments.digits import load
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from tests.support import pictures
from tests.support.archived_networks import edited
from tests.support.demo_page import NEEDS_CHROMIUM, DemoPage, address_in, browsing
from tests.support.served_process import ROOT, Served, alive
from tests.support.small_networks import LIGHT, QUICK
from tests.support.waiting import until

pytestmark = NEEDS_CHROMIUM
slow = pytest.mark.slow


def exported(net, folder, version):
    bundle = folder / f"bundle-{version}"
    bundle.mkdir()
    write_bundle(net, bundle, name="digits", model_version=version)
    return write_archive(bundle, ROOT / "handlers", folder / f"digits-{version}.mar")


@pytest.fixture(scope="module")
def stored(digits_run, tmp_path_factory):
    """A folder with the digits in three tasks, version 3.0."""
    folder = tmp_path_factory.mktemp("stored")
    exported(EideticNetwork.load(digits_run), folder, "3.0")
    return folder


@pytest.fixture(scope="module")
def grown(digits_run, stored):
    """The same folder, with version 4.0, which learned a fourth task, and 9.0, which forgot the first one."""
    net = EideticNetwork.load(digits_run)
    loaders = {
        f"{first} or {first + 1}": batches(*map(torch.from_numpy, load([first, first + 1])))
        for first in (0, 2, 4, 6)
    }
    net.train_task("6 or 7", loaders["6 or 7"], ["6", "7"], training=QUICK, pruning=LIGHT)
    net.fit_router(loaders, training=QUICK, routing=Routing("block", "hard", LIGHT))
    exported(net, stored, "4.0")
    edited(
        stored / "digits-4.0.mar",
        stored / "digits-9.0.mar",
        graph=other_weight,
        bundle=lambda bundle: bundle.update(model_version="9.0"),
    )
    return stored


def other_weight(model):
    """In the first task's first layer."""
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 2)
    weight = numpy_helper.to_array(tensor).copy()
    weight[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))


@pytest.fixture(scope="module")
def server(stored, tmp_path_factory):
    with Served(tmp_path_factory.mktemp("demo") / "home", stored / "digits-3.0.mar", "--demo") as running:
        until(lambda: "open http" in running.output())
        yield running


@pytest.fixture(scope="module")
def address(server):
    """Of the page that ``serve --demo`` has started."""
    return address_in(server.output())


def test_a_drawn_stroke_gives_a_label_with_its_task_version_and_milliseconds(address):
    with browsing(address) as page:
        page.draw("1")
        page.says("It is 1, of the task 0 or 1")
        assert "version 3.0" in page.answer()
        assert "ms" in page.answer()
        assert page.tab.locator("#tasks").inner_text().count("%") == 3
        assert page.tab.locator("#labels").inner_text().count("%") == 2
        assert page.complaints == []
        assert {host.partition(":")[0] for host in page.hosts} == {"127.0.0.1"}


def choose(page, archive):
    """Choose an archive of the store, and tick that its routing may go unmeasured."""
    page.choose("An archive in", archive)
    page.tab.get_by_label("Deploy it although").check()


def outcome(page):
    found = page.tab.locator("#steps").get_by_text("eployed", exact=False).filter(has_not_text="Steps")
    found.first.wait_for()
    return page.tab.locator("#steps").inner_text()


@slow
def test_a_deploy_shows_its_steps_equal_logits_no_lost_request_and_the_new_version(grown, tmp_path):
    with (
        Served(tmp_path / "home", grown / "digits-3.0.mar") as server,
        DemoPage(tmp_path / "log", "--home", server.home, "--store", grown) as demo,
        browsing(demo.address) as page,
    ):
        page.draw("1")
        page.says("It is 1")
        choose(page, "digits-4.0.mar")
        page.tab.get_by_role("button", name="Prove and deploy it").click()
        steps = outcome(page)
        for step in ("is sound", "proven: 4.0 against 3.0", "answers its probes", "digits 3.0 is gone"):
            assert step in steps
        assert "Not deployed" not in steps
        assert ", 0 failed" in steps
        assert "by version 4.0" in steps
        page.tab.get_by_text("Bit-equal: no logit of an earlier task has moved.").wait_for()
        rows = page.tab.locator("#logits tbody tr").all_inner_texts()
        assert [row.split("\t")[0] for row in rows] == ["0 or 1", "2 or 3", "4 or 5"]
        assert all(row.split("\t")[1] == row.split("\t")[2] and "also your input" in row for row in rows)
        page.tab.locator("#heading").get_by_text("4.0").wait_for()
        page.choose("Task", "6 or 7")
        page.says("of the task 6 or 7 (pinned)")
        assert page.complaints == []
        (report,) = (server.home / "reports").glob("deploy-*.json")
        assert json.loads(report.read_text())["outcome"] == "done"


@slow
def test_a_version_that_forgot_is_refused_in_a_sentence_and_the_moved_logits_are_shown(grown, tmp_path):
    with (
        Served(tmp_path / "home", grown / "digits-3.0.mar") as server,
        DemoPage(tmp_path / "log", "--home", server.home, "--store", grown) as demo,
        browsing(demo.address) as page,
    ):
        choose(page, "digits-9.0.mar")
        page.tab.get_by_role("button", name="Prove and deploy it").click()
        assert "Not deployed: the new version does not keep what the old one does" in outcome(page)
        page.tab.get_by_text("Logits of earlier tasks have moved.").wait_for()
        assert server.manage("GET", "/models/digits").json()[0]["modelVersion"] == "3.0"
        page.tab.locator("#heading").get_by_text("3.0").wait_for()
        page.draw("1")
        page.says("version 3.0")
        assert page.complaints == []


@slow
def test_an_archive_that_is_uploaded_is_deployed(grown, tmp_path):
    with (
        Served(tmp_path / "home", grown / "digits-3.0.mar") as server,
        DemoPage(tmp_path / "log", "--home", server.home, "--store", tmp_path) as demo,
        browsing(demo.address) as page,
    ):
        page.tab.get_by_role("button", name="Prove and deploy it").click()
        page.tab.get_by_text("which archive? Choose one of the store, or upload one").wait_for()
        page.tab.locator("input[type=file]").last.set_input_files(grown / "digits-4.0.mar")
        page.tab.get_by_text("digits-4.0").first.wait_for()
        page.tab.get_by_label("Deploy it although").check()
        page.tab.get_by_role("button", name="Prove and deploy it").click()
        assert "digits 4.0 answers" in outcome(page)


@slow
def test_the_keyboard_alone_draws_and_deploys(grown, tmp_path):
    with (
        Served(tmp_path / "home", grown / "digits-3.0.mar") as server,
        DemoPage(tmp_path / "log", "--home", server.home, "--store", grown) as demo,
        browsing(demo.address) as page,
    ):
        keys = page.tab.keyboard

        def reach(selector):
            for _ in range(60):
                keys.press("Tab")
                if page.tab.evaluate(f"document.activeElement.matches({selector!r})"):
                    return
            raise AssertionError(f"no Tab leads to {selector}")

        reach("canvas")
        keys.press("Space")
        for _ in range(12):
            keys.press("ArrowDown")
        keys.press("Space")
        page.says("It is 1")
        reach("[aria-label^='An archive in']")
        keys.press("ArrowDown")
        keys.type("4.0")
        keys.press("Enter")
        reach("input[type=checkbox]")
        keys.press("Space")
        reach("#deploy")
        keys.press("Enter")
        assert "digits 4.0 answers" in outcome(page)
        assert page.complaints == []


@slow
def test_no_request_leaves_the_machine_and_no_key_reaches_the_browser(server, tmp_path):
    with DemoPage(tmp_path / "log", "--home", server.home) as demo, browsing(demo.address) as page:
        page.draw("1")
        page.says("It is 1")
        told = b"".join(request.response().body() for request in page.finished)
        assert len(told) > 100_000
        assert {host.partition(":")[0] for host in page.hosts} == {"127.0.0.1"}
        keys = server.keys().values()
        assert not any(key.encode() in told for key in keys)
        assert not any(key in page.tab.content() for key in keys)
        assert demo.reached() == {"127.0.0.1"}


def picture(kind):
    """A zero, dark on bright, off the middle."""
    image = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(image).ellipse((180, 40, 260, 170), outline="black", width=18)
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@slow
def test_uploads_numbers_thresholds_and_pinned_tasks_are_answered_or_refused_in_words(address, tmp_path):
    np.save(tmp_path / "x.npy", load([4])[0][0])
    np.save(tmp_path / "short.npy", np.zeros(63))
    (tmp_path / "x.png").write_bytes(picture("PNG"))
    (tmp_path / "x.jpg").write_bytes(picture("JPEG"))
    (tmp_path / "broken.png").write_bytes(picture("PNG")[:100])
    told = [
        ("x.png", "It is 0, of the task 0 or 1"),
        ("broken.png", "no PNG or JPEG that can be read"),
        ("x.jpg", "It is 0, of the task 0 or 1"),
        ("short.npy", "there are 63 numbers; expected 64 numbers from 0 to 16"),
        ("x.npy", "It is 4, of the task 4 or 5"),
    ]
    with browsing(address) as page:
        page.tab.get_by_role("tab", name="Upload").click()
        for name, text in told:
            page.upload(tmp_path / name)
            page.says(text)
        page.tab.get_by_role("tab", name="Numbers").click()
        for text, says in [
            (str(load([0])[0][0].tolist()), "It is 0, of the task 0 or 1"),
            ("1 2 three", "'three' is no number; expected 64 numbers from 0 to 16"),
            ("17 " * 64, "17"),
            ("8 " * 64, "version 3.0"),
        ]:
            page.tab.locator("#numbers textarea").fill(text)
            page.tab.get_by_role("button", name="Ask about these numbers").click()
            page.says(says)
        page.tab.get_by_label("number input for Threshold").fill("1")
        page.tab.keyboard.press("Enter")
        page.says("Unknown: no task claims this")
        page.choose("Task", "2 or 3")
        page.says("of the task 2 or 3 (pinned)")
        assert page.complaints == []


MARKUP = [
    "<img src=x onerror=\"document.title='hacked'\">",
    "${document.title='hacked'}",
    "{{#each value}}{{/each",
]


@slow
def test_names_that_are_markup_or_templates_are_shown_as_they_are(stored, tmp_path):
    def rename(bundle):
        bundle["name"] = "odd"
        for task, name in zip(bundle["tasks"], MARKUP, strict=True):
            task["name"], task["classes"] = name, [f"{name} {i}" for i in (1, 2)]

    odd = edited(stored / "digits-3.0.mar", tmp_path / "odd-3.0.mar", bundle=rename)
    with (
        Served(tmp_path / "home", odd) as server,
        DemoPage(tmp_path / "log", "--home", server.home) as demo,
        browsing(demo.address) as page,
    ):
        page.draw("1")
        page.says("version 3.0")
        for name in MARKUP:
            page.choose("Task", name)
            page.says(f"of the task {name} (pinned)")
        assert page.tab.title() == "odd - EideticNet"
        assert page.complaints == []


@slow
def test_numbers_have_sliders_where_there_are_few(versions, tmp_path):
    with (
        Served(tmp_path / "home", versions["1.0"]) as server,
        DemoPage(tmp_path / "log", "--home", server.home) as demo,
        browsing(demo.address) as page,
    ):
        page.tab.get_by_role("tab", name="Numbers").click()
        page.tab.get_by_label("range slider for Number 2").press("ArrowRight")
        page.says("of the task task 0")
        assert page.tab.locator("canvas#pen").count() == 0


@slow
def test_a_picture_goes_to_a_model_of_pictures_as_it_is(colours, tmp_path):
    (tmp_path / "red.png").write_bytes(pictures.picture("red", 0))
    with (
        Served(tmp_path / "home", colours.path) as server,
        DemoPage(tmp_path / "log", "--home", server.home) as demo,
        browsing(demo.address) as page,
    ):
        page.tab.get_by_role("tab", name="Upload").click()
        page.upload(tmp_path / "red.png")
        page.says("It is red")


@slow
def test_a_server_that_forgets_the_model_or_stops_is_told_of_in_the_page(stored, versions, tmp_path):
    with (
        Served(tmp_path / "home", stored / "digits-3.0.mar", versions["1.0"]) as server,
        DemoPage(tmp_path / "log", "--home", server.home, "--name", "digits") as demo,
        browsing(demo.address) as page,
    ):
        assert server.command("remove", "--name", "digits").returncode == 0
        page.tab.locator("#heading").get_by_text("no model 'digits' is served at").wait_for()
        page.draw("1")
        page.says("404")
        server.end()
        page.tab.locator("#heading").get_by_text("nothing listens there").wait_for()
        page.draw("0")
        page.says("no answer from")
        assert page.complaints == []


@slow
def test_the_page_ends_with_serve_and_a_page_that_ends_takes_nothing_with_it(stored, tmp_path):
    def page_of(server):
        until(lambda: "open http" in server.output())
        return next(p for p in psutil.Process(server.process.pid).children() if "demo" in p.cmdline())

    with Served(tmp_path / "home", stored / "digits-3.0.mar", "--demo") as server:
        page = page_of(server)
        assert {c.laddr.ip for c in page.net_connections()} == {"127.0.0.1"}
        server.end()
        until(lambda: not alive(page.pid))
    with Served(tmp_path / "home", "--demo") as server:
        page = page_of(server)
        page.kill()
        until(lambda: not alive(page.pid))
        assert server.predict({"data": [0] * 64}, model="digits").status_code == 200
        page_killed = page.pid
    with Served(tmp_path / "home", "--demo") as server:
        page = page_of(server)
        assert page.pid != page_killed
        server.kill()
        until(lambda: not alive(page.pid))
