"""Only a port that is taken moves, and stays where it moved to."""

import json
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eideticnet.serving.errors import ServingError, Unavailable
from eideticnet.serving.home.addresses import Network, Ports
from eideticnet.serving.supervise.ports import OPTIONS, USUAL, free_ports, moved, taken
from tests.support.own_ports import own_ports
from tests.support.served_process import ROOT, serving

USES = list(Ports.model_fields)


def test_no_two_test_processes_give_their_servers_the_same_port():
    code = "from tests.support.own_ports import own_ports; print(*own_ports().model_dump().values()); input()"
    with ExitStack() as stack:
        start = partial(subprocess.Popen, [sys.executable, "-c", code], cwd=ROOT, text=True)
        others = [stack.enter_context(start(stdin=subprocess.PIPE, stdout=subprocess.PIPE)) for _ in range(2)]
        stack.callback(lambda: [other.stdin.close() for other in others])
        found = [set(map(int, other.stdout.readline().split())) for other in others]
        found.append(set(own_ports().model_dump().values()))
    blocks = [{port // 1000 for port in ports} for ports in found]
    assert [len(ports) for ports in found] == [len(USES)] * 3
    assert [len(block) for block in blocks] == [1] * 3
    assert len(set.union(*blocks)) == 3


def listening(stack, port, host="127.0.0.1"):
    stack.enter_context(socket.create_server((host, port)))


@settings(max_examples=20)
@given(st.sets(st.sampled_from(USES)))
def test_ports_of_before_stay_but_for_those_that_are_taken(busy):
    before = own_ports()
    with ExitStack() as stack:
        for use in busy:
            listening(stack, getattr(before, use))
        now = free_ports(Network(), before)
        assert {use for use in USES if getattr(now, use) != getattr(before, use)} == busy
        assert len({*now.model_dump().values()}) == len(USES)
        theirs = {getattr(before, use) for use in busy - {"control"}}
        assert set(taken(before, Network())) == theirs
    assert free_ports(Network(), now) == now


def test_a_port_counts_as_taken_at_the_address_that_it_is_for():
    before = own_ports()
    with ExitStack() as stack:
        listening(stack, before.inference, "127.0.0.2")
        assert free_ports(Network(), before).inference == before.inference
        for host in ("127.0.0.2", "0.0.0.0"):
            assert free_ports(Network(host=host), before).inference != before.inference


def test_an_address_of_another_machine_is_named():
    with pytest.raises(Unavailable, match=r"no port can be had at 192\.0\.2\.1: .*assign"):
        free_ports(Network(host="192.0.2.1"))


def test_a_port_that_is_asked_for_is_had_or_the_option_that_asked_is_named():
    before, other = own_ports(), own_ports()
    for use, option in OPTIONS.items():
        port = getattr(other, use)
        now = free_ports(Network(), before, asked={use: port})
        assert now == before.model_copy(update={use: port})
        with ExitStack() as stack:
            listening(stack, port)
            for prefer_usual in (True, False):
                with pytest.raises(ServingError, match=rf"^{option} {port}: port {port} is taken: end what"):
                    free_ports(Network(), before, asked={use: port}, prefer_usual=prefer_usual)
    with pytest.raises(ServingError, match="--control-port"):
        free_ports(asked={"inference": other.control, "control": other.control})
    now = free_ports(Network(), before, asked={"inference": before.control})
    assert now.inference == before.control != now.control


def test_a_server_listens_where_it_is_asked_to_and_refuses_a_port_that_is_taken(versions, tmp_path):
    home, asked = tmp_path / "home", own_ports()
    options = [x for use, option in OPTIONS.items() for x in (option, getattr(asked, use))]
    with ExitStack() as stack:
        listening(stack, asked.control)
        told = serving("serve", versions["1.0"], "--home", home, *options)
        assert told.returncode == 1
        assert f"port {asked.control} is taken: end what listens there" in told.stderr.replace("\n", " ")
        assert not home.exists()
    told = serving(
        "serve", versions["1.0"], "--home", home, *options, "--run", "echo $EIDETIC_URL $EIDETIC_GRPC"
    )
    assert told.returncode == 0, told.stderr
    assert f"http://127.0.0.1:{asked.inference} 127.0.0.1:{asked.grpc_inference}" in told.stdout
    assert Ports.read(home / "ports.json").model_dump(include={*OPTIONS}) == asked.model_dump(
        include={*OPTIONS}
    )


def test_a_server_keeps_its_ports_over_restarts_and_one_that_is_taken_moves_alone(versions, tmp_path):
    home, before = tmp_path / "home", own_ports()
    home.mkdir()
    before.write(home / "ports.json")

    def run(*arguments):
        told = serving("serve", *arguments, "--home", home, "--run", "cat $EIDETIC_HOME/server.json")
        assert told.returncode == 0, told.stderr
        return json.loads(told.stdout[told.stdout.index("{\n") :])

    with ExitStack() as usual, ExitStack() as stack:
        with suppress(OSError):  # somebody else has the usual port, or nobody may get it in between
            listening(usual, USUAL.grpc_management)
        listening(stack, before.grpc_management)
        first = run(versions["1.0"])
        stack.close()
        second = run()
    now = Ports.read(home / "ports.json")
    assert now.model_dump(exclude={"grpc_management"}) == before.model_dump(exclude={"grpc_management"})
    assert first["grpc_management"].endswith(f":{now.grpc_management}")
    assert now.grpc_management != before.grpc_management
    addresses = ("inference", "management", "control", "grpc_inference", "grpc_management")
    assert {a: first[a] for a in addresses} == {a: second[a] for a in addresses}
    notes = " ".join(moved(now))
    assert (
        now.grpc_management == USUAL.grpc_management
        or f"port {now.grpc_management}: {USUAL.grpc_management} was taken" in notes
    )
