"""The page of ``eidetic demo``, which can deploy, answers the browser alone that was given its address."""

import asyncio

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eideticnet.serving.demo.guard import MOST_UPLOADED, Guard
from tests.support.demo_page import DemoPage
from tests.support.example_counts import examples

PORT = 7860
SECRET = "/3Kx9sUq7"
OWN = {"host": f"127.0.0.1:{PORT}"}


async def inner(scope, receive, send):
    """The page: it would answer anything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the page"})


def asked(path=f"{SECRET}/", method="GET", **headers):
    """The answer to a request; headers with _ for -."""
    sent = {**OWN, **{name.replace("_", "-"): value for name, value in headers.items()}}

    async def ask():
        transport = httpx.ASGITransport(Guard(inner, SECRET, PORT))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1:{PORT}") as client:
            return await client.request(method, path, headers=sent)

    return asyncio.run(ask())


def test_a_request_of_another_site_or_for_another_host_is_refused():
    own = f"http://127.0.0.1:{PORT}"
    assert asked().text == "the page"
    assert asked(host=f"localhost:{PORT}").text == "the page"
    assert asked(method="POST", path=f"{SECRET}/gradio_api/queue/join", origin=own).text == "the page"
    assert asked(sec_fetch_site="none").text == asked(sec_fetch_site="same-origin").text == "the page"
    for host in ("evil.example", f"evil.example:{PORT}", "127.0.0.1:80", "127.0.0.1", "", f"[::1]:{PORT}"):
        assert asked(host=host).status_code == 403, host
    for origin in (
        "http://evil.example",
        "null",
        "",
        f"https://127.0.0.1:{PORT}",
        f"http://localhost:{PORT}",
    ):
        assert asked(origin=origin).status_code == 403, origin
    for site in ("cross-site", "same-site", "", "None"):
        assert asked(sec_fetch_site=site).status_code == 403, site
    policy = asked().headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "access-control-allow-origin" not in asked(origin=own).headers


@examples(30, 1000)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="?#"), max_size=30))
def test_only_paths_that_begin_with_the_secret_are_answered(path):
    known = f"/{path}".startswith((f"{SECRET}/", "/manifest.json", "/favicon.ico")) or f"/{path}" == SECRET
    assert asked(f"/{path}".replace("%", "%25")).text != "the page" or known


def test_what_is_sent_is_bounded_before_it_is_read():
    join, upload = f"{SECRET}/gradio_api/queue/join", f"{SECRET}/gradio_api/upload"
    assert asked(join, "POST", content_length=str(1 << 20)).text == "the page"
    assert asked(join, "POST", content_length=str(1 << 25)).status_code == 413
    assert asked(upload, "POST", content_length=str(1 << 25)).text == "the page"
    assert asked(upload, "POST", content_length=str(2 * MOST_UPLOADED)).status_code == 413
    assert asked(join, "POST", content_length="-1").status_code == 413
    assert asked(join, "POST", transfer_encoding="chunked").status_code == 411
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert asked(method=method).status_code == 405


ROUTES = [
    *(
        "gradio_api/file=/etc/passwd",
        "gradio_api/file=http://127.0.0.1:1/",
        "gradio_api/proxy=http://x.hf.space",
    ),
    *("gradio_api/file/etc/passwd", "gradio_api/run/predict", "gradio_api/call/look", "gradio_api/vibe-code"),
    *("monitoring", "docs", "openapi.json", "gradio_api/openapi.json", "gradio_api/dev/reload", "login"),
    *(
        "gradio_api/run-history/connect",
        "gradio_api/runs",
        "gradio_api/stream/x",
        "gradio_api/mcp/",
        "svelte/x",
    ),
]


@pytest.mark.parametrize("route", ROUTES)
def test_what_the_page_does_not_need_is_not_there(route):
    for method in ("GET", "POST"):
        assert asked(f"{SECRET}/{route}", method).status_code == 404


@pytest.mark.slow
def test_only_who_knows_the_address_reaches_the_page_and_nobody_a_file(server, tmp_path):
    with DemoPage(tmp_path / "log", "--home", server.home, "--name", "net") as demo:
        page = httpx.URL(demo.address)
        with httpx.Client(base_url=page, trust_env=False, timeout=60) as client:
            assert client.get("").status_code == 200
            assert client.get(page.copy_with(path="/")).status_code == 404
            assert client.get(page.copy_with(path="/gradio_api/info")).status_code == 404
            for name in ("assets/", "static/"):
                for up in ("../" * 8, "..%2f" * 8, "%2e%2e/" * 8, "/"):
                    assert client.get(f"{name}{up}etc/passwd").status_code >= 400
            key = server.keys()["management"]
            everything = "".join(client.get(name).text for name in ("", "config", "gradio_api/info"))
            assert key not in everything
            assert server.keys()["inference"] not in everything
            assert str(demo.process.pid) not in everything
            for number, function in enumerate(client.get("config").json()["dependencies"]):
                body = {
                    "data": [FILE for _ in function["inputs"]],
                    "fn_index": number,
                    "session_hash": "x",
                }
                client.post("gradio_api/queue/join", json=body)
            with client.stream("GET", "gradio_api/queue/data", params={"session_hash": "x"}) as told:
                text = "".join(told.iter_text())
            assert "root:" not in text


FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
