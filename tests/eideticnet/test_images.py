"""Pictures become inputs by one formula, the same in training and where they are served."""

import io
import json
from shutil import rmtree
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eidetic_runtime import pictures
from eidetic_runtime.contract import Contract, usual_pixels
from eidetic_runtime.errors import BadRequest
from eidetic_runtime.pictures import from_image
from eideticnet import EideticNetwork, ImageInput, Inputs
from eideticnet.errors import DataError, DataWarning
from eideticnet.export.archive.contract import read_bundle
from eideticnet.export.bundle.writer import write_bundle
from eideticnet.export.errors import ArchiveError
from eideticnet.runs.config import Config, TaskConfig
from eideticnet.runs.images import read_folder, read_image
from eideticnet.runs.run import open_data
from eideticnet.runs.sources import open_task
from tests.support.costly_pictures import COSTLY
from tests.support.pictures import IMAGE, INPUTS, TASKS, network, picture, write_pictures

SIZES = st.tuples(st.integers(1, 20), st.integers(1, 20))
IMAGES = st.builds(
    ImageInput,
    SIZES,
    st.sampled_from(["RGB", "L"]),
    st.sampled_from(["bilinear", "none"]),
    st.sampled_from(["CHW", "flat"]),
    st.sampled_from([255.0, 255, 1.0, 15.9375, 3.7]),
)


@st.composite
def files(draw):
    mode = draw(st.sampled_from(["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16"]))
    size = draw(SIZES)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    image = Image.frombytes("RGBA", size, rng.bytes(4 * size[0] * size[1]))
    image = image.convert("L").convert(mode) if mode == "I;16" else image.convert(mode)
    kind = "JPEG" if mode == "CMYK" else draw(st.sampled_from(["PNG", "JPEG"] if mode in "RGBL" else ["PNG"]))
    exif = Image.Exif()
    exif[0x0112] = draw(st.integers(0, 9))
    file = io.BytesIO()
    more = {"exif": exif} if draw(st.booleans()) else {}
    if kind == "JPEG":
        more["progressive"] = draw(st.booleans())
    elif draw(st.integers(0, 9)) == 0:
        more |= {"save_all": True, "append_images": [image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)]}
    image.save(file, kind, **more)
    return file.getvalue()


def described(image):
    """The bundle of a network whose inputs are such pictures, as far as a handler looks at it."""
    spec = Inputs(image.shape, image=image).to_json()
    return {"input": spec, "limits": {"max_instances": 1}, "tasks": [{"name": "a", "classes": ["b"]}]}


@pytest.mark.filterwarnings("ignore:Palette images")  # which Pillow says of files that both read alike
@given(file=files(), image=IMAGES)
def test_training_and_serving_make_the_same_of_a_file_to_the_last_bit(file, image, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "one"
    path.write_bytes(file)
    try:
        trained = read_image(path, image)
    except DataError:
        with pytest.raises(BadRequest):
            from_image(file, "body", Contract.of(described(image)))
        return
    served = from_image(bytearray(file), "body", Contract.of(described(image)))
    assert served.shape == (1, *image.shape)
    assert served.tobytes() == trained.numpy().tobytes()


@pytest.mark.parametrize("name", sorted(COSTLY.keys() - {"pixels"}))
def test_training_refuses_what_takes_a_server_too_long_to_read(name, tmp_path):
    (tmp_path / "one.png").write_bytes(COSTLY[name][0])
    with pytest.raises(DataError, match=r"one\.png .*" + COSTLY[name][1]):
        read_image(tmp_path / "one.png", IMAGE)


@given(IMAGES)
def test_training_and_serving_decode_as_many_pixels(image):
    assert Contract.of(described(image)).max_decoded == usual_pixels(vars(image))


def photograph(size, kind="JPEG", **options):
    """A picture in which neighbours differ, as a file."""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (23, 31, 3), np.uint8))
    small.resize(size, Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(513, 512), (700, 900), (4000, 3000), (8, 40_000), (65_500, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_photograph_is_decoded_at_a_part_of_its_size_in_training_as_where_it_is_served(
    size, mode, tmp_path
):
    image, path = ImageInput((6, 5), mode), tmp_path / "photograph.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    path.write_bytes(photograph(size, exif=exif))
    trained = read_image(path, image)
    served = from_image(path.read_bytes(), "body", Contract.of(described(image)))
    assert served.tobytes() == trained.numpy().tobytes()
    with Image.open(path) as whole:
        upright = whole.convert(mode).transpose(Image.Transpose.ROTATE_270).resize((5, 6), 2)
    pixels = np.asarray(upright, np.float32).reshape(6, 5, -1).transpose(2, 0, 1) / 255
    assert np.abs(trained.numpy() - pixels).mean() < 0.05  # it is that picture, if not to the bit


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"progressive": True})])
def test_what_is_too_large_for_a_server_is_trained_on_and_told_and_served_if_it_was_exported_for_it(
    kind, options, tmp_path
):
    write_pictures(tmp_path, count=1)
    file = photograph((600, 500), kind, **options)
    (tmp_path / "red/00.png").write_bytes(file)
    with pytest.warns(DataWarning, match=r"1 of 2 pictures are larger .*--max-pixels 300000"):
        x, _ = read_folder(tmp_path, TASKS["warm"], INPUTS, TASKS["cold"])
    bundle = described(IMAGE)
    with pytest.raises(BadRequest, match="300000 pixels; expected at most 262144, or 16777216 in a JPEG"):
        from_image(file, "body", Contract.of(bundle))
    bundle["limits"]["max_decoded_pixels"] = 300_000
    assert from_image(file, "body", Contract.of(bundle)).tobytes() == x[0].numpy().tobytes()


def test_a_task_is_read_from_a_folder_with_a_folder_for_each_class(tmp_path):
    write_pictures(tmp_path / "files")
    task = TaskConfig(name="warm", classes=("red", "yellow"), data=str(tmp_path / "files"))
    others = ("blue", "cyan")
    data = open_task(task, INPUTS, seed=0, held_out=0.25, batch_size=8, others=others)
    x, y = read_folder(tmp_path / "files", task.classes, INPUTS, others)
    assert x.shape == (24, 3, 6, 5)
    assert y.tolist() == [0] * 12 + [1] * 12
    assert torch.equal(x[3], read_image(tmp_path / "files/red/03.png", IMAGE))
    assert sum(len(labels) for _, labels in data.test) == 6


def test_what_would_not_be_read_of_a_folder_is_refused_unless_it_is_another_tasks(tmp_path):
    write_pictures(tmp_path, count=2)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "red/notes.txt").touch()
    x, _ = read_folder(tmp_path, ["red", "yellow"], INPUTS, ["blue", "cyan"])
    assert len(x) == 4
    with pytest.raises(DataError, match=r"holds 'blue', which would not be read .*red, yellow"):
        read_folder(tmp_path, ["red", "yellow"], INPUTS, ["cyan"])
    for stray in ("red/more", "red/a.webp", "a.PNG"):
        path = tmp_path / stray
        path.touch() if path.suffix else path.mkdir()
        with pytest.raises(DataError, match=path.name):
            read_folder(tmp_path, ["red", "yellow"], INPUTS, ["blue", "cyan"])
        path.unlink() if path.suffix else path.rmdir()


def test_tasks_of_a_configuration_may_share_a_folder_of_training_or_of_test_pictures(tmp_path):
    for part in ("warm", "cold", "test"):
        write_pictures(tmp_path / part, count=2, first=5000 if part == "test" else 0)
        for colour in TASKS.get({"warm": "cold", "cold": "warm"}.get(part), ()):
            rmtree(tmp_path / part / colour)
    tasks = [
        {"name": n, "classes": c, "data": str(tmp_path / n), "test": str(tmp_path / "test")}
        for n, c in TASKS.items()
    ]
    settings = {"name": "n", "trunk": {"target": "m:f"}, "input": INPUTS}
    for used in (tasks, [{**t, "data": t["test"], "test": None} for t in tasks]):
        config = Config.model_validate({**settings, "tasks": used})
        assert open_data(SimpleNamespace(tasks=(), inputs=INPUTS), config).keys() == TASKS.keys()
        alone = Config.model_validate({**settings, "tasks": used[:1]})
        with pytest.raises(DataError, match=r"task 'warm': .*holds 'blue'"):
            open_data(SimpleNamespace(tasks=(), inputs=INPUTS), alone)


@pytest.mark.parametrize(
    ("name", "content", "inputs", "words"),
    [
        ("red/a.png", b"nonsense", INPUTS, "a.png is no PNG or JPEG"),
        ("red/a.gif", b"GIF89a", INPUTS, "red holds no images"),
        ("red/a.png", picture("red", 0)[:-40], INPUTS, "a.png is no PNG or JPEG"),
        ("red/a.png", picture("red", 0), Inputs((3, 6, 5)), r"say in \[input.image\]"),
    ],
)
def test_a_folder_that_is_no_data_is_refused_by_name(tmp_path, name, content, inputs, words):
    (tmp_path / "red").mkdir()
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_folder(tmp_path, ["red"], inputs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": (0, 4)}, "image size"),
        ({"size": (4, 4), "mode": "HSV"}, "image mode 'HSV'"),
        ({"size": (4, 4), "resize": "cubic"}, "image resize 'cubic'"),
        ({"size": (4, 4), "layout": "HWC"}, "image layout 'HWC'"),
        ({"size": (4, 4), "scale": 0}, "image scale"),
    ],
)
def test_an_image_contract_that_means_nothing_is_refused(options, words):
    with pytest.raises(DataError, match=words):
        ImageInput(**options)


def test_an_image_contract_has_to_give_the_inputs_shape():
    with pytest.raises(DataError, match=r"shape \(3, 6, 5\)"):
        Inputs((3, 5, 6), image=IMAGE)
    bundle = described(IMAGE)["input"] | {"shape": [90]}
    assert Inputs.from_json(described(IMAGE)["input"]).image == IMAGE
    assert bundle["image"]["layout"] == "CHW"


def test_without_pillow_the_error_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "Image", None)
    with pytest.raises(DataError, match=r"eideticnet\[images\]"):
        read_image(tmp_path / "a.png", IMAGE)


def test_the_image_contract_goes_from_checkpoint_to_bundle_and_into_every_digest(tmp_path):
    net = network(tmp_path / "files")
    net.save(tmp_path / "run")
    loaded = EideticNetwork.load(tmp_path / "run")
    assert loaded.inputs == INPUTS
    assert loaded.digests() == net.digests()
    other = Inputs(IMAGE.shape, low=0, high=1)
    assert set(net.learned.digests(other, net.program).values()).isdisjoint(net.digests().values())
    (tmp_path / "bundle").mkdir()
    write_bundle(loaded, tmp_path / "bundle", name="colours", model_version="2.0")
    bundle = json.loads((tmp_path / "bundle/bundle.json").read_text())
    assert Inputs.from_json(bundle["input"]) == INPUTS
    wrong = {**bundle, "input": {**bundle["input"], "shape": [90]}}
    with pytest.raises(ArchiveError, match=r"an image becomes float32 of shape \[3, 6, 5\]"):
        read_bundle(json.dumps(wrong).encode())
