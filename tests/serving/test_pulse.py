"""A server is given up for lost when it is silent or idle for too long, and not because nobody looked."""

import time

from hypothesis import given
from hypothesis import strategies as st

from serving.management import HeldModel, HeldVersion, Worker
from serving.pulse import Pulse


def held(ready):
    return {"net": HeldModel("1", {"1": HeldVersion("net.mar", 1, (Worker(7, ready),))})}


def test_a_long_time_without_a_look_is_no_silence():
    pulse = Pulse(silence=0.05, idleness=0.05)
    pulse.beat(held(True))
    time.sleep(0.1)
    assert pulse.lost() == ""
    pulse.miss()
    assert pulse.lost() == ""


def test_silence_and_idleness_are_told_once_they_last():
    for sign, words in ((Pulse.miss, "answered nothing"), (lambda p: p.beat(held(False)), "no worker of")):
        pulse = Pulse(silence=0.05, idleness=0.05)
        sign(pulse)
        assert pulse.lost() == ""
        time.sleep(0.1)
        sign(pulse)
        assert words in pulse.lost()


@given(st.lists(st.sampled_from(["beat", "idle", "miss"]), max_size=20))
def test_one_good_look_always_ends_what_was_wrong(signs):
    pulse = Pulse(silence=-1, idleness=-1)
    for sign in [*signs, "beat"]:
        {"beat": lambda: pulse.beat(held(True)), "idle": lambda: pulse.beat(held(False)), "miss": pulse.miss}[
            sign
        ]()
    assert pulse.lost() == ""
