"""How a graph runs is read from model-config.yaml, or refused with the key's name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eidetic_runtime.device import Settings, read_settings, usable_cores


@pytest.mark.parametrize("config", [None, {}, {"minWorkers": 1}, {"handler": None}, {"handler": {}}])
def test_what_is_not_stated_is_one_thread_on_whatever_there_is(config):
    assert read_settings(config, cores=8) == Settings("auto", 1, None)


def test_what_is_stated_counts():
    config = {"handler": {"device": "cuda", "threads": 4, "buckets": [1, 8, 32]}}
    assert read_settings(config, cores=8) == Settings("cuda", 4, (1, 8, 32))


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ({"device": "tpu"}, r"handler\.device is 'tpu'; expected one of auto, cpu, cuda"),
        ({"device": ["cpu"]}, r"handler\.device is \['cpu'\]"),
        ({"threads": 0}, r"handler\.threads is 0; expected a whole number from 1 to 1024"),
        ({"threads": True}, r"handler\.threads is True"),
        ({"threads": "2"}, r"handler\.threads is '2'"),
        ({"buckets": []}, r"handler\.buckets is \[\]; expected ascending numbers of rows"),
        ({"buckets": [8, 1]}, r"handler\.buckets is \[8, 1\]"),
        ({"buckets": [1, 1]}, r"handler\.buckets"),
        ({"buckets": [1, 1.5]}, r"handler\.buckets"),
        ({"buckets": 32}, r"handler\.buckets is 32"),
        ({"buckets": [0]}, r"each from 1 to 65536"),
        ({"gpu": 1}, r"handler\.gpu is no setting"),
        ([1], r"handler is \[1\]"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(handler, words):
    with pytest.raises(ValueError, match=words):
        read_settings({"handler": handler}, cores=8)


@given(threads=st.integers(1, 1024), workers=st.integers(1, 1024), cores=st.integers(1, 256))
def test_threads_of_all_workers_never_exceed_the_cores_where_each_worker_has_one(threads, workers, cores):
    config = {"minWorkers": 1, "maxWorkers": workers, "handler": {"threads": threads}}
    found = read_settings(config, cores).threads
    assert 1 <= found <= threads
    assert found == 1 or found * workers <= cores
    assert found == threads or (found + 1) * workers > cores  # no lower than it has to be


def test_workers_are_those_of_the_server_where_it_says_so(monkeypatch):
    config = {"maxWorkers": 1, "handler": {"threads": 8}}
    for stated, threads in (("4", 2), ("", 8), ("none", 8), ("0", 8)):
        monkeypatch.setenv("EIDETIC_WORKERS", stated)
        assert read_settings(config, cores=8).threads == threads


def test_threads_that_are_lowered_are_said_once(caplog):
    read_settings({"maxWorkers": 2, "handler": {"threads": 4}}, cores=4)
    assert [r.getMessage() for r in caplog.records] == [
        "4 threads in each of 2 workers are more than the 4 cores: 2 threads in each"
    ]


def test_the_cores_are_those_that_this_process_may_use():
    import os

    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)
    assert 1 <= usable_cores() <= len(everything)
