"""Every query of the dashboard and of the alerts finds data on a live server."""

import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from eideticnet.export.archive.reader import read_archive
from tests.support.own_ports import own_ports
from tests.support.served_process import Served
from tests.support.waiting import PATIENCE, until

FOLDER = Path(__file__).parents[2] / "operations"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
PANELS = [(f"{p['title']} {t['refId']}", t["expr"]) for p in DASHBOARD["panels"] for t in p["targets"]]
DEPLOYS = [(a["name"], a["expr"]) for a in DASHBOARD["annotations"]["list"]]
GROUPS = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
ALERTS = [(rule["alert"], rule["expr"]) for group in GROUPS for rule in group["rules"]]


@pytest.fixture(scope="module")
def server(versions, tmp_path_factory):
    """A server that was asked good, bad, pinned and unknown things, by version 1.0 and then by 2.0."""
    with Served(tmp_path_factory.mktemp("dashboard") / "home", versions["1.0"]) as server:
        archive = read_archive(versions["2.0"])
        rows = np.concatenate(list(archive.probes.values())).tolist()
        send(server, rows)
        assert server.command("deploy", versions["2.0"], "--accept-unmeasured-routing").returncode == 0
        send(server, rows)
        yield server


def send(server, rows):
    task = next(iter(read_archive(next(server.home.glob("store/*.mar"))).tasks)).name
    for row in rows:
        server.predict({"data": row})
    server.predict({"data": rows[0], "task": task})
    server.predict({"data": rows[0], "threshold": 1.0})
    server.predict({"data": "nonsense"})


def selectors(node):
    """The vector selectors of a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        child = getattr(node, name, None)
        if child is not None and not isinstance(child, str):
            yield from selectors(child)
    for child in getattr(node, "args", None) or ():
        yield from selectors(child)


def filled(query, rate="1m"):
    """A query as Grafana sends it once its variables have values."""
    return query.replace("$__rate_interval", rate).replace("$model", ".*")


@pytest.fixture(scope="module")
def scraped(server):
    """The labels of each series that the server shows, by the series' name."""
    response = until(lambda: (r := server.control("/metrics")).is_success and r)
    found = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize(("name", "query"), PANELS + DEPLOYS + ALERTS)
def test_every_series_that_a_query_names_is_there(scraped, name, query):
    found = list(selectors(promql_parser.parse(filled(query))))
    assert found
    for selector in found:
        matching = scraped.get(selector.name, [])
        for matcher in selector.matchers.matchers:
            if matcher.value != ".*":
                matching = [labels for labels in matching if labels.get(matcher.name) == matcher.value]
        assert matching, f"{name}: nothing matches {selector.prettify()}"


def test_a_query_for_a_series_that_is_not_there_would_be_seen(scraped):
    (selector,) = selectors(promql_parser.parse("rate(eidetic_nothing_total[1m])"))
    assert selector.name not in scraped


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory):
    """The address of a Prometheus that has scraped the server several times, under load."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed here; the test above holds the names alone")
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "1s"
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [server.running["control"].split("//")[1]]
    config["rule_files"] = [str(FOLDER / "alerts.yml")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    url = f"127.0.0.1:{own_ports().inference}"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={url}"], stdout=log, stderr=log)
    try:
        until(lambda: answered(f"http://{url}/-/ready"))
        rows = np.concatenate(list(read_archive(next(server.home.glob("store/*2.0*.mar"))).probes.values()))
        address = f"http://{url}/api/v1"
        with ThreadPoolExecutor(2) as pool:
            while sum(asked(address, "count_over_time(up[1h])")) < 6:
                list(pool.map(lambda _: send(server, rows.tolist()), range(2)))
        yield address
    finally:
        process.terminate()
        process.wait()


def answered(url):
    try:
        return httpx.get(url, timeout=PATIENCE, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def asked(prometheus, query):
    response = httpx.get(
        f"{prometheus}/query", params={"query": query}, timeout=PATIENCE, trust_env=False
    ).json()
    assert response["status"] == "success", response
    return [float(series["value"][1]) for series in response["data"]["result"]]


def test_prometheus_has_an_answer_to_every_panel(prometheus):
    for name, query in PANELS:
        values = asked(prometheus, filled(query))
        assert any(value == value for value in values), f"{name}: {query} gives {values}"


def test_prometheus_knows_the_alerts_and_none_fires_on_a_healthy_server(prometheus):
    response = httpx.get(f"{prometheus}/rules", timeout=PATIENCE, trust_env=False).json()
    rules = {rule["name"]: rule for group in response["data"]["groups"] for rule in group["rules"]}
    assert set(rules) == {name for name, _ in ALERTS}
    assert {rule["state"] for rule in rules.values()} == {"inactive"}
