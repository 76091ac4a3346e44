"""``eidetic record`` keeps what was recorded, in a file of its own."""

from eideticnet.export.archive.reader import read_archive
from eideticnet.serving.deploys.recording import read
from tests.support.served_process import Served

ROW = {"data": [0.5] * 6}


def test_recorded_requests_are_kept_in_a_new_file_alone(versions, tmp_path):
    kept = tmp_path / "kept.safetensors"
    with Served(tmp_path / "home", versions["1.0"], "--record", 10) as server:
        assert [server.predict(ROW).status_code for _ in range(3)] == [200] * 3
        done = server.command("record", kept)
        assert "3 requests to net" in done.stdout, done.stderr
    assert len(read(kept, "net", read_archive(versions["1.0"]).bundle.input)) == 3
    before = kept.read_bytes()
    for wrong in (kept, tmp_path / "kept.npz"):
        done = server.command("record", wrong)
        assert done.returncode == 1
        assert "is no new .safetensors file" in done.stderr.replace("\n", " ")
    assert kept.read_bytes() == before
    assert not (tmp_path / "kept.npz").exists()
