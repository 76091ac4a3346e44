"""Whatever a network learned under, names, numbers and ranges, its archive is written, read and judged."""

import json

from hypothesis import assume, given
from hypothesis import strategies as st

from eidetic_runtime.contract import Contract
from eideticnet import DataError
from eideticnet.contract.parts import as_json
from eideticnet.export.archive.reader import read_archive
from eideticnet.export.archive.writer import write_archive
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.proof.verify import verify
from tests.support.drawn_jobs import jobs
from tests.support.example_counts import examples
from tests.support.smallest_archive import ROOT


@examples(8, 25)
@given(job=jobs(), format=st.sampled_from(["onnx", "onnx", "torchscript"]))
def test_what_train_task_accepts_is_exported_and_its_archive_read_back(job, format, tmp_path_factory):
    try:
        net = job.learn()
    except DataError:
        assume(False)
    folder, archive = tmp_path_factory.mktemp("bundle"), tmp_path_factory.mktemp("store") / "net.mar"
    write_bundle(net, folder, name="net", model_version="1.0", format=format)
    write_archive(folder, ROOT / "handlers", archive)
    read = read_archive(archive)
    (task,) = read.tasks
    assert (task.name, task.classes) == (net.tasks[0].name, net.tasks[0].classes)
    assert json.loads(json.dumps(as_json(read.bundle.input))) == json.loads(json.dumps(net.inputs.to_json()))
    assert Contract.of(as_json(read.bundle)) is not None
    if format == "onnx":
        assert verify(archive, archive).verdict == "proven"
