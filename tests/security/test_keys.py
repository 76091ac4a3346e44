"""Keys stand in the files that are for them, and nowhere else."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from eideticnet.client import Client, GrpcClient
from eideticnet.serving.key import Key
from tests.support.own_ports import with_own_ports
from tests.support.served_process import serving
from tests.support.waiting import PATIENCE

ROW = {"data": [0] * 6}


def traffic(server, archives):
    """Answers, errors, wrong keys, a refused deploy, a deploy and the way back: what is printed."""
    keys, printed, url = server.keys(), [], f"{server.running['inference']}/predictions/net"
    with Client(server.running["inference"], server.secrets) as client:
        client.predict("net", ROW)
    for body in (b"{", b'{"data": []}', b"\x00" * 24):
        headers = {"Authorization": f"Bearer {keys['inference']}", "x-request-id": keys["inference"] + "'"}
        httpx.post(url, content=body, headers=headers, timeout=PATIENCE, trust_env=False)
    for token in (keys["management"], keys["inference"] + "x"):
        headers = {"Authorization": f"Bearer {token}"}
        httpx.post(url, json=ROW, headers=headers, timeout=PATIENCE, trust_env=False)
    server.manage("POST", "/models", url="http://127.0.0.1:1/x.mar")
    deploys = (["deploy", archives["1"]], ["deploy", archives["more"], "--new-model"])
    for command in (*deploys, ["rollback", "--name", "more"], ["status"], ["remove", "--name", "more"]):
        done = server.command(*command)
        printed += [done.stdout, done.stderr]
    return printed


def test_no_key_is_in_any_file_output_command_line_or_environment_but_its_own(server, archives):
    printed = traffic(server, archives)
    shown = "".join(printed).replace("\n", " ")
    assert "is what is served already" in shown
    assert "more 1.0 answers" in shown
    top, private = psutil.Process(server.running["pid"]), Path(server.running["folder"])
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # a worker of the model that was rolled back
            printed += [*process.cmdline(), *process.environ().values()]
    keys = [key.encode() for key in server.keys().values()]
    texts = {str(i): text.encode() for i, text in enumerate([*printed, server.output()])}
    files = [p for folder in (server.home.parent, private) for p in folder.rglob("*") if p.is_file()]
    for path in files:
        with suppress(FileNotFoundError):  # replaced by a whole one
            texts[str(path)] = path.read_bytes()
    found = {place for place, text in texts.items() if any(key in text for key in keys)}
    allowed = {server.secrets, server.home / "authorization.txt", private / "key_file.json"}
    assert found == set(map(str, allowed))
    assert len(files) > 20


def test_no_key_is_in_the_environment_of_a_command_that_runs_beside_the_server(archives, tmp_path):
    told = serving(
        "serve", archives["1"], "--home", with_own_ports(tmp_path), "--run", "env; echo; cat $EIDETIC_KEYS"
    )
    variables, _, keys = told.stdout.rpartition("\n\n")
    assert "EIDETIC_URL" in variables
    assert json.loads(keys).keys() == {"inference", "management"}
    assert not [key for key in json.loads(keys).values() if key in variables]


def test_no_key_is_in_the_repr_of_a_client_or_in_a_traceback():
    secret = "s3cretTk"
    clients = [Client("http://127.0.0.1:9", secret), GrpcClient("127.0.0.1:9", secret), Key(secret)]
    assert not [c for c in clients if secret in repr(c)]
    for client in clients[:2]:
        client.close()
    code = "import os;from eideticnet.client import Client;Client('http://127.0.0.1:9',os.environ['K']).predict('m',{})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "K": secret},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NoAnswerError" in done.stderr
    assert secret not in done.stderr
