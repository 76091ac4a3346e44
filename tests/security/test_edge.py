"""What an engine can not refuse is refused in front of it: a real HAProxy before a real TorchServe."""

import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import grpc
import httpx
import numpy as np
import pytest

from eideticnet.client import Client, GrpcClient
from eideticnet.serving.edge.options import edge_for
from eideticnet.serving.errors import MOST_BYTES, ServingError, WrongKeyError
from eideticnet.serving.home.addresses import Network
from eideticnet.serving.home.running import Keys
from tests.support.java_heap import collected
from tests.support.waiting import PATIENCE

ROW = {"data": [0] * 6}
BODY = json.dumps(ROW).encode()
PREDICT = "/predictions/net"


def key(edge, use="inference"):
    return json.loads(edge.keys.read_text())[use]


def url(edge):
    return f"http://127.0.0.1:{edge.ports.inference}"


def ask(
    edge, content=BODY, kind="application/json", path=PREDICT, method="POST", source="127.0.0.1", **headers
):
    """An answer to a request with the right key, unless ``headers`` say otherwise."""
    sent = {"Authorization": f"Bearer {key(edge)}", "Content-Type": kind, **headers}
    with httpx.Client(
        transport=httpx.HTTPTransport(local_address=source, verify=False), timeout=PATIENCE
    ) as client:
        return client.request(
            method, url(edge) + path, content=content, headers={k: v for k, v in sent.items() if v}
        )


def connected(edge, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", edge.ports.inference), PATIENCE, source_address=(source, 0))


def raw(edge, content, source="127.0.0.1", seconds=1.0):
    """All answers to these bytes on one connection, and whether it was closed."""
    with connected(edge, source) as s:
        s.sendall(content)
        s.settimeout(seconds)
        found = b""
        try:
            while data := s.recv(65536):
                found += data
        except TimeoutError:
            return found, False
        except ConnectionResetError:
            pass
    return found, True


def one_more(stack, edge):
    """The first bytes that come back on one more connection, which is kept; none where it is closed."""
    with suppress(ConnectionError):
        connection = stack.enter_context(connected(edge, "127.0.0.8"))
        connection.sendall(whole(edge))
        return connection.recv(12)
    return b""


def head(edge, *lines, target=PREDICT, version="1.1"):
    known = ("Host: x", f"Authorization: Bearer {key(edge)}", "Content-Type: application/json")
    return "\r\n".join([f"POST {target} HTTP/{version}", *known, *lines, "", ""]).encode()


def whole(edge, *lines, **head_of):
    return head(edge, f"Content-Length: {len(BODY)}", *lines, **head_of) + BODY


def chunked(content):
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content)


HIDING = [
    ("Content-Length: {}\r\nTransfer-Encoding: chunked", 1),
    ("Transfer-Encoding: chunked\r\nContent-Length: {}", 1),
    ("Content-Length: {}\r\nTransfer-Encoding: chunked, identity", 0),
    ("Transfer-Encoding: chunked, identity", 0),
    ("Transfer-Encoding: identity, chunked", 0),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", 0),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 0),
    ("Content-Length: {}\r\nTransfer-Encoding: xchunked", 0),
    ("Content-Length: {}\r\nTransfer-Encoding : chunked", 0),
    ("Content-Length: {}\r\nTransfer-Encoding: \x0bchunked", 0),
    ("Content-Length: {}\r\nContent-Length: 3", 0),
    ("Content-Length: +{}", 0),
]


@pytest.mark.parametrize(("lines", "answers"), HIDING)
def test_a_request_hidden_in_the_valid_body_of_another_is_answered_by_nobody(edge, lines, answers):
    """Both are whole, with the right key: what TorchServe takes for one and the hidden one."""
    hidden = chunked(BODY) + whole(edge, "x-request-id: hidden")
    found, closed = raw(edge, head(edge, lines.format(len(hidden))) + hidden)
    assert closed
    assert found.count(b'"label"') == answers
    assert found.count(b"HTTP/1.1 ") == 1
    assert b"hidden" not in found
    assert found[9:12] in ((b"200",) if answers else (b"400", b"422"))


def test_without_an_edge_the_hidden_one_is_answered_too(edge, server):
    """Which is why there is one: TorchServe reads on behind a body that it was told the end of twice."""
    right = f"Authorization: Bearer {server.keys()['inference']}\r\nContent-Type: application/json"
    hidden = b"POST %s HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Length: %d\r\n\r\n%s"
    hidden = chunked(BODY) + hidden % (PREDICT.encode(), right.encode(), len(BODY), BODY)
    lengths = f"Content-Length: {len(hidden)}\r\nTransfer-Encoding: chunked"
    sent = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\n{right}\r\n{lengths}\r\n\r\n".encode() + hidden
    with socket.create_connection(("127.0.0.1", edge.inner.inference), PATIENCE) as s:
        s.sendall(sent)
        found = b""
        while found.count(b'"label"') < 2:
            found += s.recv(65536)


def test_a_chunked_body_is_read_and_an_old_client_may_send_none(edge):
    sent = head(edge, "Transfer-Encoding: chunked") + chunked(BODY)
    assert raw(edge, sent)[0].count(b'"label"') == 1
    old = head(edge, "Transfer-Encoding: chunked", version="1.0") + chunked(BODY)
    assert raw(edge, old)[0].startswith(b"HTTP/1.1 400")


def test_requests_of_a_pipeline_are_answered_one_after_the_other(edge):
    names = [f"request-{n}" for n in range(20)]
    found, closed = raw(edge, b"".join(whole(edge, f"x-request-id: {name}") for name in names))
    told = [line.split()[1].decode() for line in found.splitlines() if line.startswith(b"eidetic-request-id")]
    assert (told, closed) == (names, False)


@pytest.mark.parametrize(
    ("lines", "version", "ends"),
    [
        ([], "1.1", False),
        (["Connection: close"], "1.1", True),
        ([], "1.0", True),
        (["Connection: keep-alive"], "1.0", False),
    ],
)
def test_a_connection_is_closed_when_the_client_says_so_or_is_old(edge, lines, version, ends):
    found, closed = raw(edge, whole(edge, *lines, version=version))
    assert (found.count(b'"label"'), closed) == (1, ends)


def test_who_has_no_key_or_a_wrong_one_gets_a_401_at_once_whatever_is_sent(edge, server):
    """Before a byte of the body is read: half-sent bodies cost the engine nothing."""
    held, source = collected(server.running["frontend"]), "127.0.0.2"
    right = key(edge)
    begun = time.monotonic()
    for wrong in ("", right, "Bearer", f"Basic {right}", f"Bearer {right}x", f"Bearer {right[:-1]}"):
        answer = ask(edge, source=source, Authorization=wrong)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["error"]["kind"] == "unauthorized"
    assert ask(edge, source=source, Authorization=f"Bearer {key(edge, 'management')}").status_code == 401
    with ExitStack() as stack:
        half = [stack.enter_context(connected(edge, "127.0.0.3")) for _ in range(80)]
        for s in half:
            s.sendall(b"POST /predictions/net HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n")
            with suppress(OSError):  # closed already
                s.sendall(bytes(100_000))
        for s in half:
            s.settimeout(PATIENCE)
            assert s.recv(12) in (b"HTTP/1.1 401", b"HTTP/1.1 429")
        assert ask(edge).status_code == 200
    assert time.monotonic() - begun < 20
    assert collected(server.running["frontend"]) - held < 10 << 20


@pytest.mark.slow
def test_who_guesses_keys_is_slowed_down_and_nobody_else(edge):
    wrong = [ask(edge, source="127.0.0.4", Authorization="Bearer guess").status_code for _ in range(40)]
    assert (wrong[0], wrong[-1]) == (401, 429)
    assert ask(edge, source="127.0.0.4").status_code == 200
    assert ask(edge, source="127.0.0.5", Authorization="Bearer guess").status_code == 401


def test_clients_understand_that_their_key_is_wrong(edge):
    with pytest.raises(WrongKeyError), Client(url(edge), "wrong") as client:
        client.predict("net", ROW)
    with pytest.raises(WrongKeyError), GrpcClient(f"127.0.0.1:{edge.ports.grpc_inference}", "wrong") as rpc:
        rpc.predict("net", ROW)


FORMS = [
    "application/x-www-form-urlencoded",
    "APPLICATION/X-WWW-FORM-URLENCODED; charset=utf-8",
    "application/x-www-form-urlencoded;a=b",
    "application/json, application/x-www-form-urlencoded",
]


def test_a_urlencoded_form_is_refused_before_it_is_parsed(edge):
    """600,000 fields keep an event loop of TorchServe busy for seconds; eight at once all of them."""
    fields = b"&".join(b"a%d=b" % n for n in range(600_000))
    with ThreadPoolExecutor(8) as pool:
        begun = time.monotonic()
        asked = [pool.submit(ask, edge, fields, FORMS[0]) for _ in range(8)]
        assert ask(edge).status_code == 200
        for one in asked:
            with suppress(httpx.TransportError):  # closed while it was still sending
                assert one.result().status_code == 415
        assert time.monotonic() - begun < 4
    for kind in FORMS:
        answer = ask(edge, b"data=1", kind)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (415, "unsupported_media_type")


@pytest.mark.slow
def test_forms_are_small_and_few_at_once(edge):
    form = b'--B\r\nContent-Disposition: form-data; name="data"\r\n\r\n' + BODY + b"\r\n--B--\r\n"
    kind = "multipart/form-data; boundary=B"
    assert ask(edge, form, kind).status_code == 200
    assert ask(edge, form + bytes(1 << 20), kind).status_code == 413
    pieces = iter([form])
    assert ask(edge, pieces, kind).status_code == 413  # nobody knows how long it will be


@pytest.mark.slow
def test_the_dearest_forms_keep_nobody_waiting_for_long(edge):
    """Of the largest that are let through, a second of one thread each; 24 at once."""
    for part in (b"X: y\r\n" * 160_000, b'Content-Disposition: form-data; name="a"; ' + b"a=b;" * 240_000):
        form = b"--B\r\n" + part + b"\r\n\r\nx\r\n--B--\r\n"
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(ask, edge, form, "multipart/form-data; boundary=B") for _ in range(24)]
            longest = 0.0
            while not all(one.done() for one in asked):
                begun = time.monotonic()
                assert ask(edge).status_code == 200
                longest = max(longest, time.monotonic() - begun)
            assert longest < 8
            assert {one.result().status_code for one in asked} <= {200, 400, 500, 503}


def test_a_body_over_the_limit_is_refused_before_it_is_sent(edge):
    found, closed = raw(edge, head(edge, f"Content-Length: {MOST_BYTES + 1}"))
    assert (found[:12], closed) == (b"HTTP/1.1 413", True)
    assert ask(edge, BODY + b" " * (MOST_BYTES - len(BODY))).status_code == 200


@pytest.mark.slow
def test_half_sent_bodies_with_a_key_end_in_seconds_and_keep_nobody_waiting(edge, server):
    held = collected(server.running["frontend"])
    with ExitStack() as stack:
        half = [stack.enter_context(connected(edge)) for _ in range(200)]
        for s in half:
            s.sendall(head(edge, "Content-Length: 6000000"))
            s.setblocking(False)
            with suppress(BlockingIOError):
                s.sendall(bytes(3_000_000))
        for _ in range(20):
            assert ask(edge).status_code == 200
        assert collected(server.running["frontend"]) - held < 600 << 20
        for s in half:
            s.settimeout(PATIENCE)
            with suppress(ConnectionResetError):
                while s.recv(65536):
                    pass


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"POST /pre", b"POST /predictions/net HTTP/1.1\r\nHost: x\r\nX: ", None])
def test_who_sends_slowly_is_let_go(edge, begun):
    """The head, and the body of a small request, have ten seconds, however they drip."""
    begun = begun or head(edge, "Content-Length: 1000")
    with connected(edge) as s:
        s.sendall(begun)
        started, found = time.monotonic(), b""
        s.settimeout(0.5)
        while time.monotonic() - started < 60:
            try:
                data = s.recv(65536)
                found += data
                if not data:
                    break
            except TimeoutError:
                s.sendall(b"a")
            except ConnectionError:
                break
        assert 5 < time.monotonic() - started < 20
        assert found.startswith(b"HTTP/1.1 408")


@pytest.mark.slow
def test_what_no_client_would_send_is_refused(edge):
    odd = [
        head(edge, "Content-Length: 0").replace(b"Host: x\r\n", b""),
        whole(edge, version="9.9"),
        whole(edge, version="1.2"),
        whole(edge).replace(b"POST", b"GET"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        whole(edge, "X: a\0b"),
        whole(edge, "X: " + "y" * 40_000),
        whole(edge, target="/predictions/" + "%zz" * 20_000),
        *(
            whole(edge, f"{name}: a", f"{name}: b")
            for name in ("Authorization", "eidetic-task", "eidetic-top-k")
        ),
        whole(edge, "content-encoding: gzip", "Content-Encoding: identity"),
    ]
    for sent in odd:
        found, closed = raw(edge, sent, seconds=0.2)
        assert closed or found.startswith(b"HTTP/1.1 400"), sent[:200]
        assert found.startswith(b"HTTP/1.1 400"), (sent[:200], found[:200])
    for method in (b"CONNECT", b"TRACE", b"PUT", b"DELETE"):
        assert raw(edge, whole(edge).replace(b"POST", method, 1))[0][:12] in (
            b"HTTP/1.1 405",
            b"HTTP/1.1 400",
        )
    assert ask(edge).status_code == 200


@pytest.mark.parametrize("use", ["inference", "management"])
def test_no_management_is_done_through_the_port_for_predictions(edge, server, use):
    right = f"Bearer {key(edge, use)}"
    for method, path in (
        ("GET", "/models"),
        ("DELETE", "/models/net"),
        ("PUT", "/models/net?min_worker=0"),
        ("GET", "/%6dodels"),
        ("GET", "//models"),
        ("GET", "/predictions/../models"),
        ("GET", "/predictions/%2e%2e/models"),
        ("GET", "/token?type=inference"),
        ("GET", "/api-description"),
        ("OPTIONS", "/"),
        ("POST", "/workflows"),
    ):
        sent = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {right}\r\n\r\n"
        found, _ = raw(edge, sent.encode(), source="127.0.0.6")
        assert found[9:12] in (b"401", b"404", b"405", b"429"), (path, found[:200])
    assert server.default() == "1.0"
    address = f"http://127.0.0.1:{edge.ports.management}/models"
    answer = httpx.get(address, headers={"Authorization": right}, trust_env=False, timeout=PATIENCE)
    assert answer.status_code == (200 if use == "management" else 401)


def test_pages_of_the_origins_that_are_named_may_ask_and_no_others(edge):
    def preflight(origin):
        wanted = {"Origin": origin, "Access-Control-Request-Method": "POST", "Authorization": ""}
        return ask(edge, b"", "", method="OPTIONS", source="127.0.0.7", **wanted)

    for origin in ("https://page.example", "http://localhost:3000"):
        allowed = preflight(origin)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, origin)
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        for more in ({}, {"Authorization": "Bearer wrong"}):
            answer = ask(edge, Origin=origin, **more)
            assert answer.headers["access-control-allow-origin"] == origin
            assert answer.headers["vary"] == "Origin"
    for origin in ("https://page.example.evil", "http://page.example", "https://page.exampl", "null"):
        assert "access-control-allow-origin" not in preflight(origin).headers
        assert "access-control-allow-origin" not in ask(edge, Origin=origin).headers


@pytest.mark.slow
def test_one_client_has_few_connections_and_another_is_answered_beside_them(make_edge):
    edge = make_edge(connections=20)
    with ExitStack() as stack:
        answers = [one_more(stack, edge) for _ in range(40)]
        assert set(answers) == {b"HTTP/1.1 200", b""}
        assert 19 <= answers.count(b"HTTP/1.1 200") <= 20
        assert ask(edge, source="127.0.0.9").status_code == 200


@pytest.mark.slow
def test_a_bare_client_of_grpc_learns_of_health_without_a_key_and_of_nothing_else(edge, make_edge):
    with grpc.insecure_channel(f"127.0.0.1:{edge.ports.grpc_inference}") as channel:
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE) == b"\x08\x01"
        for path, sent, code in (
            ("/grpc.health.v1.Health/Check", b"\x0a\x03net", grpc.StatusCode.NOT_FOUND),
            ("/grpc.health.v1.Health/Watch", b"", grpc.StatusCode.UNIMPLEMENTED),
            (
                "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Ping",
                b"",
                grpc.StatusCode.UNAUTHENTICATED,
            ),
        ):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(path)(sent, timeout=PATIENCE)
            assert error.value.code() == code
    with GrpcClient(f"127.0.0.1:{edge.ports.grpc_inference}", edge.keys) as client:
        assert client.predict("net", np.zeros(6, np.float32))[0].model_version == "1.0"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tls_1_3_and_1_2_are_spoken_over_ipv6_and_nothing_older(make_edge, pair):
    edge = make_edge(Network("::1", "::1", *pair))
    versions = ssl.TLSVersion

    def spoken(port, version):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2", "http/1.1"])
        context.minimum_version = context.maximum_version = version
        with (
            suppress(OSError),
            socket.create_connection(("::1", port), PATIENCE) as s,
            context.wrap_socket(s) as tls,
        ):
            return tls.version()
        return ""

    ports = edge.ports
    for port in (ports.inference, ports.management, ports.grpc_inference, ports.grpc_management):
        found = [
            spoken(port, v) for v in (versions.TLSv1, versions.TLSv1_1, versions.TLSv1_2, versions.TLSv1_3)
        ]
        assert found == ["", "", "TLSv1.2", "TLSv1.3"]
    trust = ssl.create_default_context(cafile=pair[0])
    trust.check_hostname = False
    with Client(f"https://[::1]:{ports.inference}", edge.keys, verify=trust) as client:
        assert client.predict("net", ROW)["model_version"] == "1.0"


def test_the_engines_key_is_in_no_answer_and_the_edges_are_no_keys_of_the_engine(edge, server):
    inner = server.keys()
    answers = [ask(edge), ask(edge, Authorization=""), ask(edge, b"nonsense")]
    assert not [a for a in answers for k in inner.values() if k in a.text + str(a.headers)]
    direct = httpx.post(
        server.running["inference"] + PREDICT, json=ROW, headers={"Authorization": f"Bearer {key(edge)}"}
    )
    assert direct.status_code == 400
    assert all(len(key(edge, use)) >= 43 for use in ("inference", "management"))
    assert edge.keys.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_requests_wait_while_the_engine_changes_its_keys(edge, server):
    """None is lost, though for a moment nobody knows the new ones."""
    with ThreadPoolExecutor(4) as pool:
        with edge.waiting():
            asked = [pool.submit(ask, edge) for _ in range(4)]
            time.sleep(0.5)
            assert not any(one.done() for one in asked)
            edge.engine_keys[0].write_text(json.dumps(server.keys()))
        assert [one.result().status_code for one in asked] == [200] * 4


def test_who_asks_before_the_engine_is_there_for_the_first_time_waits_for_it(make_edge, server):
    edge = make_edge(ready=False)
    with ThreadPoolExecutor(2) as pool:
        early = pool.submit(ask, edge)
        assert ask(edge, Authorization="Bearer guess").status_code == 401
        time.sleep(0.5)
        assert not early.done()
        edge.pass_to(edge.inner, Keys(**server.keys()))
        assert early.result().status_code == 200


def test_what_can_not_be_had_is_said_at_the_start(pair, tmp_path):
    fake = tmp_path / "haproxy"
    fake.write_text("#!/bin/sh\necho HAProxy version 2.4.1 2021\n")
    fake.chmod(0o700)
    for arguments, message in (
        ({"haproxy": tmp_path / "none"}, "can't be run: No such file"),
        ({"haproxy": fake}, "is HAProxy 2.4.1; expected 2.8 or later"),
        ({"cors": ["page.example"]}, "is no origin"),
        ({"cors": ["https://a\nbind :1"]}, "is no origin"),
    ):
        with pytest.raises(ServingError, match=message):
            edge_for(Network(), True, **arguments)
    with pytest.raises(ServingError, match="add --edge"):
        edge_for(Network(), cors=["*"])
    assert edge_for(Network()) is None
    assert edge_for(Network("0.0.0.0"), False) is None
    found = edge_for(Network("0.0.0.0"))
    if found.binary.wheel:
        with pytest.raises(ServingError, match="gets no more fixes: install"):
            edge_for(Network("0.0.0.0", certificate=pair[0], private_key=pair[1]))
    assert edge_for(Network("::", certificate=pair[0], private_key=pair[1]), wheel_tls=True)
