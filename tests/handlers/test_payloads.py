"""Raw numbers, .npy files, images, forms and options are read, or refused by name."""

import gzip
import io
import json
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from eidetic_runtime.errors import STATUS, BadRequest
from tests.support.costly_pictures import COSTLY, black
from tests.support.read_requests import read

RAW, NPY = "application/octet-stream", "application/x-npy"
BUNDLE = {
    "input": {"shape": [2, 3], "dtype": "float32", "low": -16.0, "high": 16.0},
    "limits": {"max_instances": 3},
    "tasks": [{"name": "cats", "classes": ["a", "b"]}, {"name": "ünïcode", "classes": ["c", "d", "e"]}],
}
IDS = {**BUNDLE, "input": {"shape": [3], "dtype": "int64", "low": 0, "high": 99}}
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def refused(*args, **kwargs):
    with pytest.raises(BadRequest) as error:
        read(*args, **kwargs)
    json.dumps(error.value.to_json())
    return error.value.kind, error.value.field, error.value.message


def test_raw_numbers_are_one_instance_or_several_back_to_back():
    one, two = read(X.tobytes(), BUNDLE, RAW), read(X.tobytes() * 2, BUNDLE, RAW)
    assert (one.x.tolist(), one.many) == ([X.tolist()], False)
    assert (two.x.tolist(), two.many) == ([X.tolist()] * 2, True)
    assert read(np.array([7, 8, 9]).tobytes(), IDS, RAW).x.tolist() == [[7, 8, 9]]


@pytest.mark.parametrize(
    ("sent", "kind", "field", "words"),
    [
        (b"", "bad_request", "body", "0 bytes; expected 24 for each instance"),
        (X.tobytes()[:-1], "bad_request", "body", "23 bytes; expected 24"),
        (X.tobytes() * 4, "too_large", "body", "at most 3"),
        ((X * np.nan).tobytes(), "bad_request", "body[0][0]", "nan"),
        (X.tobytes() + (X * 9).tobytes(), "bad_request", "body[1][0][2]", "is 18.0"),
    ],
)
def test_raw_numbers_that_do_not_fit_are_refused(sent, kind, field, words):
    assert refused(sent, BUNDLE, RAW)[:2] == (kind, field)
    assert words in refused(sent, BUNDLE, RAW)[2]


ARRAYS = hnp.arrays(
    st.sampled_from(["<f2", "<f4", ">f4", "<f8", ">f8", "|i1", "<i4", ">i8", "|u1", "<u8"]),
    st.sampled_from([(2, 3), (1, 2, 3), (3, 2, 3)]),
    elements=st.integers(0, 16),
)


@given(array=ARRAYS, fortran=st.booleans(), version=st.sampled_from([(1, 0), (2, 0)]))
def test_a_npy_file_is_read_whatever_its_byte_order_type_and_order_of_axes(array, fortran, version):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asfortranarray(array) if fortran else array, version)
    request = read(file.getvalue(), BUNDLE, NPY)
    assert request.many == (array.ndim == 3)
    assert request.x.tolist() == array.reshape(-1, 2, 3).tolist()


def header(text, version=1, size=24):
    text = text.encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + bytes(size)


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 2, 3)}\n"


@pytest.mark.parametrize(
    ("sent", "kind", "words"),
    [
        (npy(X)[:-1], "bad_request", "23 bytes of numbers; expected 24"),
        (npy(X) + b"x", "bad_request", "25 bytes of numbers"),
        (npy(X)[:60], "bad_request", "is no .npy file"),
        (b"nonsense", "bad_request", "is no .npy file"),
        (npy(X.T), "bad_request", "has shape [3, 2]"),
        (npy(X[None, :0]), "bad_request", "has shape [1, 0, 3]"),
        (npy(np.zeros((0, 2, 3), "f4")), "bad_request", "has shape [0, 2, 3]"),
        (npy(np.zeros((4, 2, 3), "f4")), "too_large", "at most 3"),
        (npy(X > 2), "bad_request", "holds |b1"),
        (npy(X.astype("U3")), "bad_request", "holds <U"),
        (npy(X.astype(complex)), "bad_request", "holds <c16"),
        (npy(X.astype([("a", "f4")])), "bad_request", "expected float32"),
        (npy(np.array([[{}] * 3] * 2), allow_pickle=True), "bad_request", "holds |O"),
        (header(HUGE), "too_large", "holds 1000000000 instances"),
        (header(HUGE, 2, 2**20), "too_large", "instances"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, -3)}\n"), "bad_request", "negative"),
        (header("{'descr': '<f4', 'shape': (2, 3)}\n"), "bad_request", "header"),
        (header("__import__('os').abort()\n"), "bad_request", "header"),
        (header("(" * 1000), "bad_request", "header"),
        (header("[" * 1000, 2), "bad_request", "header"),
        (header(" " * 2000), "bad_request", "plain header"),
        (header("{}", 3), "bad_request", "version 1 or 2"),
        (npy(X.astype(float) * 1e300), "bad_request", "is inf; expected a finite number"),
    ],
)  # fmt: skip
def test_a_npy_file_that_does_not_fit_is_refused_and_never_unpickled(sent, kind, words):
    found = refused(sent, BUNDLE, NPY)
    assert found[0] == kind
    assert words in found[2]


def test_token_ids_come_as_integers_alone():
    assert read(npy(np.array([1, 2, 3], np.uint8)), IDS, NPY).x.tolist() == [[1, 2, 3]]
    for wrong in (np.array([1.0, 2, 3]), np.array([1, 2, 3], np.uint64), np.array([1, 2, 100])):
        refused(npy(wrong), IDS, NPY)


@given(
    st.sampled_from([b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"{"]),
    st.binary(max_size=300),
    st.sampled_from([RAW, NPY, "image/png", "image/jpeg", ""]),
)
def test_no_bytes_of_any_type_raise_anything_but_a_bad_request(magic, rest, kind):
    sent = magic + rest
    for bundle in (BUNDLE, IDS, picture()):
        try:
            assert read(sent, bundle, kind).x.shape[1:] == tuple(bundle["input"]["shape"])
        except BadRequest as error:
            assert 400 <= error.status < 500


@given(st.data())
def test_no_damaged_file_raises_anything_but_a_bad_request(data):
    bundle = picture(size=[4, 5])
    kind, good = data.draw(
        st.sampled_from([(NPY, npy(X)), ("image/png", png()), ("image/jpeg", png("JPEG"))])
    )
    sent = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    try:
        read(bytes(sent), bundle if kind != NPY else BUNDLE, kind)
    except BadRequest as error:
        assert 400 <= error.status < 500


def picture(mode="RGB", size=(4, 5), resize="bilinear", layout="CHW", scale=255.0, **limits):
    """A bundle whose inputs are pictures."""
    shape = [3 if mode == "RGB" else 1, *size]
    image = {"mode": mode, "size": list(size), "resize": resize, "layout": layout, "scale": scale}
    spec = {"shape": shape if layout == "CHW" else [int(np.prod(shape))], "dtype": "float32", "image": image}
    return {**BUNDLE, "input": spec, "limits": {"max_instances": 3, **limits}}


def png(kind="PNG", size=(9, 7), mode="RGB", seed=0, **options):
    rng, file = np.random.default_rng(seed), io.BytesIO()
    pixels = rng.integers(0, 256, (size[1], size[0], len(mode)), np.uint8)
    Image.fromarray(pixels.squeeze()).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("layout", ["CHW", "flat"])
def test_an_image_is_converted_resized_laid_out_and_scaled(kind, layout):
    sent = png(kind)
    request = read(sent, picture("L", layout=layout, scale=16.0), f"image/{kind.lower()}")
    expected = Image.open(io.BytesIO(sent)).convert("L").resize((5, 4), Image.Resampling.BILINEAR)
    assert request.x.dtype == np.float32
    assert request.x.shape == ((1, 1, 4, 5) if layout == "CHW" else (1, 20))
    assert request.x.ravel().tolist() == (np.asarray(expected).ravel() / np.float32(16)).tolist()


def test_an_image_is_turned_upright_as_its_tag_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the right
    turned, plain = (read(png("PNG", exif=e), picture(size=(9, 7), resize="none"), "image/png") if e else None
                     for e in (exif, None))  # fmt: skip
    assert plain is None
    upright = read(png("PNG"), picture(size=(7, 9), resize="none"), "image/png")
    assert turned.x[0].tolist() == np.rot90(upright.x[0], -1, (1, 2)).tolist()


def deep():
    file = io.BytesIO()
    Image.fromarray(np.arange(20, dtype=np.uint16).reshape(4, 5) * 3000).save(file, "PNG")
    return file.getvalue()


def other_format(kind, size=(5, 4)):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind)
    return file.getvalue()


def texts():
    """A PNG whose 64 MB of text are a few kilobytes when packed."""
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "a" * (64 << 20), zip=True)
    return png(pnginfo=info)


@pytest.mark.parametrize(
    ("sent", "bundle", "kind", "words"),
    [
        (png(size=(100, 100)), picture(max_pixels=9_999), "too_large", "10000 pixels; expected at most 9999"),
        (png(), picture(resize="none"), "bad_request", "9 x 7 pixels; expected 5 x 4"),
        (deep(), picture("L"), "bad_request", "expected 8 bits"),
        (other_format("GIF"), picture(), "bad_request", "no PNG or JPEG"),
        (other_format("TIFF"), picture(), "bad_request", "no PNG or JPEG"),
        (other_format("BMP"), picture(), "bad_request", "no PNG or JPEG"),
        (texts(), picture(), "bad_request", "no PNG or JPEG"),
        (png(), BUNDLE, "unsupported_media_type", "expected one of application/json"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(sent, bundle, kind, words):
    found = refused(sent, bundle, "image/png")
    assert found[0] == kind
    assert words in found[2]


@pytest.mark.parametrize(("sent", "words"), COSTLY.values(), ids=COSTLY)
def test_a_file_that_costs_more_than_pictures_do_is_refused_before_it_is_decoded(sent, words, monkeypatch):
    load, decoded = Image.Image.load, []
    monkeypatch.setattr(Image.Image, "load", lambda opened: decoded.append(opened.size) or load(opened))
    kind, _, message = refused(sent, picture(), "image/png")
    assert set(decoded) <= {(5, 4)}  # of which only what is beside them costs anything
    assert words in message
    assert kind == "too_large"


@pytest.mark.parametrize("size", [(512, 512), (8, 32_768)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_small_input_may_come_as_512_x_512_pixels_and_only_as_a_photograph_of_more(size, kind):
    assert read(other_format(kind, size), picture(), "image/png").x.shape == (1, 3, 4, 5)
    larger = other_format(kind, (size[0], size[1] + 1))
    if kind == "PNG":
        assert "expected at most 262144, or 16777216 in a JPEG" in refused(larger, picture(), "image/png")[2]
    else:
        assert read(larger, picture(), "image/png").x.shape == (1, 3, 4, 5)


def test_a_photograph_of_16_million_pixels_costs_little_and_one_of_more_is_refused():
    photograph, larger = other_format("JPEG", (4096, 4096)), other_format("JPEG", (4096, 4097))
    load, decoded = Image.Image.load, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda opened: decoded.append(opened.size) or load(opened))
        assert read(photograph, picture(), "image/jpeg").x.shape == (1, 3, 4, 5)
    assert max(decoded) == (512, 512)
    assert "expected at most 262144, or 16777216 in a JPEG" in refused(larger, picture(), "image/jpeg")[2]
    bundle = picture(max_pixels=4096 * 4097, max_decoded_pixels=4096 * 4097)
    assert read(larger, bundle, "image/jpeg").x.shape == (1, 3, 4, 5)


def test_an_input_may_come_as_a_picture_of_64_times_its_pixels():
    assert read(other_format("PNG", (800, 800)), picture(size=(100, 100)), "image/png").x.shape[2] == 100
    assert refused(other_format("PNG", (801, 800)), picture(size=(100, 100)), "image/png")[0] == "too_large"


@pytest.mark.parametrize("colours", [2, 4, 6])
def test_sixteen_bits_are_refused_in_every_kind_of_colour(colours):
    assert "of 16 bits; expected 8 bits" in refused(black(5, 4, 16, colours), picture(), "image/png")[2]
    assert read(black(5, 4, 8, colours), picture(), "image/png").x.shape == (1, 3, 4, 5)


def usual():
    """What editors and cameras write beside the pixels."""
    info, exif = PngImagePlugin.PngInfo(), Image.Exif()
    for name in "abcd":
        info.add_itxt(name, "ü" * 1000, zip=True)
        info.add_text(name, "a" * 10_000, zip=name > "b")
    exif[0x010E] = "a" * 60_000
    more = [Image.fromarray(np.full((4, 5, 3), 99, np.uint8))]
    return {
        "texts": png(size=(5, 4), pnginfo=info),
        "a profile": png(size=(5, 4), icc_profile=bytes(500_000)),
        "EXIF": png("JPEG", size=(5, 4), exif=exif),
        "a progressive JPEG": png("JPEG", size=(50, 40), progressive=True),
        "a film behind the picture": png("JPEG", size=(5, 4)) + np.random.default_rng(0).bytes(4_000_000),
        "several pictures": png("MPO", size=(5, 4), save_all=True, append_images=more),
    }


@pytest.mark.parametrize("name", usual())
def test_what_editors_and_cameras_write_is_read(name):
    assert read(usual()[name], picture(), "image/png").x.max() > 0.1


def test_an_animation_is_refused_by_name():
    frames = [Image.new("L", (5, 4), colour) for colour in (0, 255)]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    assert "is an animation; expected a single picture" in refused(file.getvalue(), picture(), "image/png")[2]


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x93NUMPY\x01\x00"]), st.binary(max_size=200)
)
def test_no_error_names_an_object_of_this_process(magic, rest):
    for kind in ("image/png", NPY, "application/json"):
        for sent in (magic + rest, header(f"{rest!r}()"), header(repr({"descr": rest, "shape": (1,)}))):
            message = refused(sent, picture(), kind)[2]
            assert " at 0x" not in message
            assert "BytesIO" not in message


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_an_image_cut_short_anywhere_is_refused_or_the_same(kind):
    sent, bundle = png(kind, size=(16, 16)), picture()
    whole = read(sent, bundle, f"image/{kind.lower()}").x
    passed = 0
    for length in range(len(sent)):
        try:
            assert np.array_equal(read(sent[:length], bundle, f"image/{kind.lower()}").x, whole), length
            passed += 1
        except BadRequest:
            pass
    assert passed <= 20  # what follows the pixels: checksums and the end of the file


def test_without_pillow_images_alone_are_refused(monkeypatch):
    from eidetic_runtime import pictures

    monkeypatch.setattr(pictures, "Image", None)
    assert refused(png(), picture(), "image/png")[0] == "unsupported_media_type"
    bundle = picture("L", (1, 2))
    assert read(b'{"data": [[[0, 1]]]}', bundle).x.tolist() == [[[[0, 1]]]]


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/mixed", "image/gif", "ü"])
def test_a_content_type_that_is_not_known_is_named_with_those_that_are(kind):
    found = refused(b"x", picture(), kind)
    assert found[:2] == ("unsupported_media_type", "content-type")
    assert "application/x-npy, image/png" in found[2]


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "", " application/json "]
)
def test_a_content_type_is_read_without_its_parameters_and_case(kind):
    assert read(json.dumps({"data": X.tolist()}).encode(), BUNDLE, kind).x.tolist() == [X.tolist()]


def deflated(data, around):
    packer = zlib.compressobj(wbits=around)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [
        ("gzip", gzip.compress),
        ("x-gzip, identity", gzip.compress),
        (" GZIP ", gzip.compress),
        ("deflate", lambda data: deflated(data, 15)),
        ("deflate", lambda data: deflated(data, -15)),
        ("identity", bytes),
        ("", bytes),
    ],
)
def test_a_packed_body_is_unpacked(coding, pack):
    for sent, kind in ((json.dumps({"data": X.tolist()}).encode(), ""), (npy(X), NPY), (X.tobytes(), RAW)):
        assert read(pack(sent), BUNDLE, kind, **{"Content-Encoding": coding}).x.tolist() == [X.tolist()]


@pytest.mark.parametrize(
    ("sent", "coding", "kind", "words"),
    [
        (b"{}", "br", "unsupported_media_type", "is 'br'; expected gzip, deflate or none"),
        (b"{}", "gzip, gzip", "unsupported_media_type", "is 'gzip, gzip'; expected gzip"),
        (b"{}", "gzip", "bad_request", "is not gzip, as its content-encoding says"),
        (b"\xff\xff", "deflate", "bad_request", "is not deflate"),
        (gzip.compress(b"{}", mtime=0)[:-1], "gzip", "bad_request", "is cut short"),
        (gzip.compress(b"{}", mtime=0) * 2, "gzip", "bad_request", "goes on after its end"),
        (gzip.compress(bytes(6_553_501), mtime=0), "gzip", "too_large", "more than 6553500 bytes"),
        (zlib.compress(bytes(64 << 20), 1), "deflate", "too_large", "more than 6553500 bytes"),
        (b"", "gzip", "unsupported_media_type", "a body that is empty, or a form"),
    ],
)
def test_a_packed_body_that_can_not_be_unpacked_is_refused_by_name(sent, coding, kind, words):
    tracemalloc.start()
    try:
        found = refused(sent, BUNDLE, "", **{"Content-Encoding": coding})
        assert tracemalloc.get_traced_memory()[1] < 32 << 20  # bytes, of which 64 << 20 are packed
    finally:
        tracemalloc.stop()
    assert found[0] == kind
    assert words in found[2]


@pytest.mark.parametrize("names", [["file"], ["file", "top_k"], ["inputs", "Data"]])
def test_a_form_without_the_part_data_names_what_is_expected_and_what_was_found(names):
    kind, field, message = refused(None, BUNDLE, "", **dict.fromkeys(names, b"1"))
    assert (kind, field) == ("bad_request", "data")
    assert "expected a part or entry called data" in message
    assert message.endswith(f"found {', '.join(repr(n) for n in names if n != 'top_k')}")


@pytest.mark.parametrize(
    ("sent", "stated"),
    [
        (npy(X), ""),
        (npy(X), RAW),  # what clients say of any file
        (X.tobytes(), RAW),
        (json.dumps({"data": X.tolist()}).encode(), ""),
    ],
)
def test_a_part_of_a_form_is_read_by_its_type_or_its_first_bytes(sent, stated):
    row = {"data": bytearray(sent), "task": bytearray("ünïcode".encode()), "top_k": bytearray(b"2")}
    from eidetic_runtime.contract import Contract
    from eidetic_runtime.headers import read_headers
    from eidetic_runtime.requests import parse

    headers = {"data": {"content-type": stated}, "Content-Type": "multipart/form-data; boundary=b"}
    request = parse(row, read_headers(headers), Contract.of(BUNDLE))
    assert (request.x.tolist(), request.task, request.top_k) == ([X.tolist()], 1, 2)


def test_a_header_named_like_the_payload_changes_nothing():
    headers = {"body": "evil", "Content-Type": RAW, "Host": "h"}
    from eidetic_runtime.contract import Contract
    from eidetic_runtime.headers import read_headers
    from eidetic_runtime.requests import parse

    request = parse({"body": X.tobytes()}, read_headers(headers), Contract.of(BUNDLE))
    assert request.x.tolist() == [X.tolist()]


def test_options_mean_the_same_wherever_they_stand():
    soon = int(time.time() * 1000) + 3_600_000
    values = {"task": "ünïcode", "threshold": 0.5, "top_k": 2, "probabilities": True, "deadline_ms": soon}
    texts = {name: str(value).lower() for name, value in values.items()}
    quoted = {**texts, "task": "%C3%BCn%C3%AFcode"}
    headers = {f"Eidetic-{name.replace('_', '-')}": text for name, text in quoted.items()}
    in_json = read(json.dumps({"data": X.tolist(), **values}).encode(), BUNDLE)
    found = [
        in_json,
        read(X.tobytes(), BUNDLE, RAW, **{n: t.encode() for n, t in texts.items()}),
        read(X.tobytes(), BUNDLE, RAW, **headers),
        read(json.dumps({"data": X.tolist(), **values}).encode(), BUNDLE, **headers, **texts),
    ]
    for r in found:
        assert (r.task, r.threshold, r.top_k, r.probabilities, r.deadline_ms) == (1, 0.5, 2, True, soon)


@pytest.mark.parametrize(
    ("beside", "field", "words"),
    [
        ({"task": b"dogs"}, "task", "'cats', 'ünïcode'"),
        ({"task": b"\xff"}, "task", "expected one of"),
        ({"threshold": b"high"}, "threshold", "from 0 to 1"),
        ({"threshold": b"nan"}, "threshold", "from 0 to 1"),
        ({"threshold": b""}, "threshold", "from 0 to 1"),
        ({"threshold": b"0_1"}, "threshold", "from 0 to 1"),
        ({"top_k": b"1_0"}, "top_k", "whole number from 1"),
        ({"top_k": b"0"}, "top_k", "whole number from 1"),
        ({"top_k": b"1.5"}, "top_k", "whole number from 1"),
        ({"top_k": b"9" * 5000}, "top_k", "whole number from 1"),
        ({"probabilities": b"maybe"}, "probabilities", "true or false"),
        ({"deadline_ms": b"inf"}, "deadline_ms", "milliseconds"),
        ({"deadline_ms": b"-1"}, "deadline_ms", "milliseconds"),
        ({"tsak": b"cats"}, "tsak", "unexpected field"),
        ({"": b"cats"}, "body", "unexpected field"),
        ({"data": b"1"}, "data", "beside a body"),
        ({"Eidetic-Tsak": "cats"}, "Eidetic-Tsak", "unknown option"),
        ({"eidetic-task": "%ff"}, "eidetic-task", "percent-encoded"),
        ({"eidetic-task": "ünïcode"}, "eidetic-task", "expected percent-encoded UTF-8"),
        ({"eidetic-task": "cats", "task": b"\xc3\xbcn\xc3\xafcode"}, "task", "twice, differently"),
    ],
)
def test_an_option_that_is_none_is_refused_by_name(beside, field, words):
    beside = dict(beside)
    if "data" in beside:
        from eidetic_runtime.contract import Contract
        from eidetic_runtime.headers import read_headers
        from eidetic_runtime.requests import parse

        with pytest.raises(BadRequest) as error:
            parse({"body": X.tobytes(), **beside}, read_headers({}), Contract.of(BUNDLE))
        found = (error.value.kind, error.value.field, error.value.message)
    else:
        found = refused(X.tobytes(), BUNDLE, RAW, **beside)
    assert found[:2] == ("bad_request", field)
    assert words in found[2]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"top_k": True}, "whole number"),
        ({"top_k": "3"}, "whole number"),
        ({"probabilities": 1}, "true or false"),
        ({"deadline_ms": "soon"}, "milliseconds"),
    ],
)
def test_options_in_json_have_their_own_types(fields, words):
    assert words in refused(json.dumps({"data": X.tolist(), **fields}).encode(), BUNDLE)[2]


def test_options_that_contradict_each_other_are_refused_and_equal_ones_are_not():
    sent = json.dumps({"data": X.tolist(), "threshold": 0.5}).encode()
    assert read(sent, BUNDLE, threshold=b"0.50").threshold == 0.5
    assert refused(sent, BUNDLE, threshold=b"0.4")[1] == "threshold"


def test_a_request_whose_deadline_passed_is_not_read_further():
    past = int(time.time() * 1000) - 100
    kind, field, words = refused(b"not a whole instance", BUNDLE, RAW, deadline_ms=str(past).encode())
    assert (STATUS[kind], field) == (408, "deadline_ms")
    assert "ms ago" in words
