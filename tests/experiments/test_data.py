"""Data sets come in the formats of their makers, from a folder or by a download that is checked."""

import gzip
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from eideticnet.errors import ConfigError, DataError
from eideticnet.experiments import augmenting, cifar, fetching, imagenette, mnist, pretraining
from eideticnet.experiments.fetching import Published, found
from eideticnet.seeding import seeded
from tests.support.data_sets import write_cifar, write_imagenette, write_mnist


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Neither the data nor the cache of who runs the tests."""
    monkeypatch.setenv("EIDETIC_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mnist.read.cache_clear()
    cifar._records.cache_clear()


@pytest.mark.parametrize(("place", "zipped"), [("mnist", True), ("MNIST/raw", False), (".", True)])
def test_mnist_is_read_from_idx_files_zipped_or_not_where_others_keep_them(tmp_path, place, zipped):
    write_mnist(tmp_path / place, zipped)
    x, y = mnist.load([7, 2], "train", images=5)
    assert (x.shape, x.dtype, np.bincount(y).tolist()) == ((10, 784), np.float32, [5, 5])
    bars = x.reshape(-1, 28, 28)[:, :, 0].argmax(1)
    assert bars.tolist() == [2 * (7, 2)[label] + 4 for label in y]
    assert len(mnist.load(range(10), "test")[0]) == 200


def test_a_permutation_moves_the_same_pixels_in_both_parts_and_the_first_moves_none(tmp_path):
    write_mnist(tmp_path / "mnist")
    plain, y = mnist.load(range(10))
    assert np.array_equal(mnist.permuted(0)[0], plain)
    moved, other = (mnist.permuted(3, part)[0] for part in ("train", "test"))
    order = np.random.default_rng(3).permutation(784)
    assert np.array_equal(moved, plain[:, order])
    assert np.array_equal(other, mnist.load(range(10), "test")[0][:, order])
    assert np.array_equal(mnist.permuted(3)[1], y)
    assert not np.array_equal(mnist.permuted(4)[0], moved)


def test_both_versions_of_cifar_are_read_as_their_page_says(tmp_path):
    write_cifar(tmp_path)
    x, y = cifar.ten([4, 9])
    assert (x.shape, np.bincount(y).tolist()) == ((30, 3, 32, 32), [15, 15])
    assert sorted(x[y == 1, 0, 0, 0].tolist()) == sorted(3 * [9.0, 10.0, 11.0, 12.0, 13.0])
    assert cifar.ten([4], "test")[0].max() == 4 + 5
    x, y = cifar.hundred([99, 3], images=2)  # by the fine label, which is the second byte
    assert sorted(zip(y.tolist(), x[:, 2, 31, 31].tolist(), strict=True)) == [(0, 99.0)] * 2 + [(1, 3.0)] * 2


def test_imagenette_is_read_from_its_folders_by_the_names_of_its_classes(tmp_path):
    numbers = list(imagenette.NAMES)[:3]
    write_imagenette(tmp_path, numbers, 2)
    x, y = imagenette.load(["cassette player", "tench"], "test", size=16)
    assert (x.shape, y.tolist()) == ((4, 3, 16, 16), [0, 0, 1, 1])
    assert x.mean((2, 3)).argmax(1).tolist() == [2, 2, 0, 0]
    assert 0 <= x.min() <= x.max() <= 1
    with pytest.raises(ConfigError, match="class = 'tensh'; did you mean 'tench'"):
        imagenette.load(["tensh"])


def test_what_is_wrong_with_data_is_said_with_its_file(tmp_path):
    folder = write_mnist(tmp_path / "mnist", zipped=False)
    with pytest.raises(ConfigError, match="part = 'tets'; did you mean 'test'"):
        mnist.load([1], "tets")
    with pytest.raises(DataError, match="no image of class 11; classes are 0 to 9"):
        mnist.load([11])
    mnist.read.cache_clear()
    images = folder / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is no whole IDX file"):
        mnist.load([1])
    images.rename(folder / "train-images-idx3-ubyte.gz")
    with pytest.raises(DataError, match=r"can't read .*train-images-idx3-ubyte.gz: Not a gzipped file"):
        mnist.load([1])
    packed = bytearray(gzip.compress(bytes(1000)))
    packed[12] ^= 255
    (folder / "train-images-idx3-ubyte.gz").write_bytes(packed)
    with pytest.raises(DataError, match=r"can't read .*train-images-idx3-ubyte.gz: .* get it again"):
        mnist.load([1])
    write_cifar(tmp_path)
    batch = tmp_path / "cifar-10-batches-bin/data_batch_2.bin"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_2.bin holds \d+ bytes, no whole number of 3073 each"):
        cifar.ten([1])
    batch.unlink()
    with pytest.raises(DataError, match=r"can't read .*data_batch_2.bin: No such file"):
        cifar.ten([1])


def test_a_folder_that_is_not_there_is_an_error_and_no_reason_to_download(monkeypatch):
    monkeypatch.setenv("EIDETIC_DATA", "/no/such/folder")
    with pytest.raises(DataError, match=r"/no/such/folder: there is no such folder; EIDETIC_DATA, or --data"):
        mnist.load([1])


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which a server here gives its files."""
    folder = tmp_path / "served"
    folder.mkdir()

    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def test_a_file_that_is_nowhere_is_downloaded_once_and_its_checksum_compared(served, tmp_path):
    folder, address, asked = served
    (folder / "numbers.bin").write_bytes(b"1234")
    source = Published(f"{address}/numbers.bin", sha256(b"1234"))
    for _ in range(2):
        file = found(["numbers.bin"], source)
        assert file.read_bytes() == b"1234"
        assert file.is_relative_to(tmp_path / "cache")
    assert asked == ["/numbers.bin"]
    (tmp_path / "numbers.bin").write_bytes(b"mine")  # a folder of one's own comes first
    assert found(["numbers.bin"], source).read_bytes() == b"mine"


def test_a_file_with_another_checksum_is_refused_and_not_kept(served, tmp_path):
    folder, address, _ = served
    (folder / "numbers.bin").write_bytes(b"12345")
    with pytest.raises(
        DataError, match=r"numbers.bin is another file than was published, with SHA-256 03ac67"
    ):
        found(["numbers.bin"], Published(f"{address}/numbers.bin", sha256(b"1234")))
    kept = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept == [".lock"]


def test_an_archive_is_unpacked_whole_or_not_at_all(served, tmp_path):
    folder, address, _ = served
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("set/part.bin")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"1234"))
    (folder / "set.tar.gz").write_bytes(packed.getvalue())
    source = Published(f"{address}/set.tar.gz", sha256(packed.getvalue()), archive=True)
    (tmp_path / "cache/eideticnet/set.tar.gz.partial/set").mkdir(parents=True)  # of one that was interrupted
    assert (found(["set"], source) / "part.bin").read_bytes() == b"1234"
    with pytest.raises(DataError, match=r"set.tar.gz holds no other"):
        found(["other"], source)


def test_without_a_network_the_error_says_where_to_put_the_file(served, tmp_path):
    _, address, _ = served
    for url, reason in (
        (f"{address}/none.bin", "File not found"),
        ("http://127.0.0.1:9/x.bin", "ConnectionError"),
    ):
        with pytest.raises(DataError) as error:
            found(["x/none.bin", "none.bin"], Published(url, "0" * 64))
        assert str(error.value) == (
            f"{tmp_path} holds no x/none.bin and no none.bin, and {url} can't be downloaded ({reason}): put "
            "it into a folder and name that with --data"
        )


def test_the_checksums_are_whole_and_the_addresses_those_of_the_makers():
    sources = [cifar.CIFAR10.source, cifar.CIFAR100.source, imagenette.SOURCE]
    assert all(len(s.sha256) == 64 and s.url.startswith("https://") for s in sources)
    assert {len(s) for s in mnist.SHA256.values()} == {64}
    assert fetching.DATA == "EIDETIC_DATA"


@pytest.mark.parametrize("shape", [(6, 49), (6, 3, 7, 7)])
def test_images_are_shifted_and_turned_by_the_numbers_of_a_name_alone(shape):
    x = torch.rand(shape)
    moved = {}
    for name in ("a", "a", "b"):
        with seeded(name):
            now = augmenting.shift_and_flip(x, pixels=2)
        assert now.shape == x.shape
        assert name not in moved or torch.equal(moved[name], now)
        moved[name] = now
    assert not torch.equal(moved["a"], moved["b"])
    images, padded = x.view(6, -1, 7, 7), torch.nn.functional.pad(x.view(6, -1, 7, 7), [1] * 4, value=9.0)
    with seeded("shift"):
        for image, whole in zip(augmenting.shift(x, 1, 9.0).view(images.shape), padded, strict=True):
            places = [whole[:, a : a + 7, b : b + 7] for a in range(3) for b in range(3)]
            assert sum(torch.equal(image, place) for place in places) == 1


def test_a_trunk_is_pretrained_once_and_goes_on_where_that_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "BATCH", 8)
    x, y = 255 * torch.rand(24, 3, 16, 16), torch.arange(24)
    whole = pretraining.pretrained(x, y, tmp_path / "whole", 2)
    moved, calls = pretraining._moved, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return moved(*arguments)

    monkeypatch.setattr(pretraining, "_moved", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrained(x, y, tmp_path / "parts", 2)
    again = pretraining.pretrained(x, y, tmp_path / "parts", 2).state_dict()
    assert len(calls) == 8
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.state_dict().items())
    pretraining.pretrained(x, y, tmp_path / "parts", 2)
    assert len(calls) == 8, "it is trained already"
