"""What bundle.json may say: the schema, the versions, the names, and JSON that is none."""

import json
import math
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eideticnet.contract.bundle import SCHEMA, Bundle, names_problem
from eideticnet.contract.parts import json_schema
from eideticnet.export.archive.contract import parse_json, read_bundle
from eideticnet.export.errors import ArchiveError
from tests.support.example_counts import examples

ATTACKS = Path(__file__).parent / "attacks"
CONTRACT = json_schema(Bundle)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@cache
def _text():
    from eideticnet.export.archive.reader import read_files

    return read_files(ATTACKS / "base.mar")[1]["bundle.json"]


@pytest.fixture
def bundle():
    return json.loads(_text())


def read(bundle):
    return json.loads(read_bundle(json.dumps(bundle).encode()).to_json())


def places(value, path=()):
    """The path of every value in a JSON document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def schemas(schema, path=""):
    """Every schema of a property or item in ``schema``."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
    for name, model in schema.get("$defs", {}).items():
        yield name, model
        yield from schemas(model, name)


def meant(schema):
    """What a reference refers to, else the schema itself."""
    return CONTRACT["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def test_the_schema_is_valid_and_describes_every_property_in_one_line():
    Draft202012Validator.check_schema(CONTRACT)
    assert SCHEMA in CONTRACT["$id"]
    described = dict(schemas(CONTRACT))
    assert len(described) > 30
    for path, schema in described.items():
        said = {**meant(schema), **schema}["description"]
        assert said.endswith("."), path
        assert "\n" not in said, path


def test_what_the_exporter_wrote_fits_the_published_schema_by_itself(bundle):
    assert list(Draft202012Validator(CONTRACT).iter_errors(bundle)) == []
    assert read(bundle) == bundle
    assert bundle["schema"].split(".")[0] == SCHEMA.split(".")[0]


def test_every_property_that_is_written_is_described(bundle):
    def known(value, schema):
        for key in value if isinstance(value, dict) else ():
            properties = schema.get("properties", {})
            assert key in properties or schema.get("additionalProperties") not in (None, False), key
            known(value[key], meant(properties.get(key, {})))

    known(bundle, {**CONTRACT, "additionalProperties": False})
    for task in bundle["tasks"]:
        known(task, {**CONTRACT["$defs"]["BundledTask"], "additionalProperties": False})


@pytest.mark.parametrize("optional", ["files", "layout", "precision", "routing", "tools"])
def test_an_older_bundle_without_the_later_properties_is_read(optional, bundle):
    del bundle[optional]
    assert optional not in read({**bundle, "schema": "1.0.0"})


NEEDED = [
    *(("files",), ("layout",), ("precision",), ("routing",), ("tools",), ("tasks", 0, "revision")),
    *(("routing", key) for key in ("decision", "router", "temperature", "head_temperatures")),
]


@pytest.mark.parametrize("path", NEEDED)
@pytest.mark.parametrize("schema", ["1.2.0", SCHEMA, "1.10.0"])
def test_a_bundle_without_what_a_proof_needs_is_refused_by_the_keys_name(path, schema, bundle):
    at = bundle
    for step in path[:-1]:
        at = at[step]
    del at[path[-1]]
    with pytest.raises(ArchiveError, match=rf"{path[-1]} is missing; expected: "):
        read({**bundle, "schema": schema})
    assert list(Draft202012Validator(CONTRACT).iter_errors({**bundle, "schema": schema}))
    assert read({**bundle, "schema": "1.1.0"})


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("routing", "decision"),
            "loudest",
            ["bundle.json: routing.decision", "'hard', 'joint' or 'entropy'"],
        ),
        (("routing", "router"), "oracle", ["bundle.json: routing.router", "'experts'"]),
        (("routing", "temperature"), 0, ["bundle.json: routing.temperature", "0"]),
        (("routing", "temperature"), "1", ["bundle.json: routing.temperature is '1'", "valid number"]),
        (("routing", "head_temperatures"), [1, -1], ["routing.head_temperatures[1]", "-1"]),
        (("routing", "threshold"), -0.1, ["routing.threshold", "-0.1"]),
        (
            ("neurons",),
            "x",
            ["bundle.json: neurons is 'x': it should be a valid integer", "free ones included"],
        ),
        (("neurons",), 1e300, ["bundle.json: neurons is 1", "less than or equal to 9223372036854775807"]),
        (("tasks",), [], ["bundle.json: tasks is []", "at least 1 item"]),
        (("tasks", 0, "classes"), "ab", ["bundle.json: tasks[0].classes is 'ab'", "it should be a list"]),
        (("tasks", 0, "report"), {"oracle": 1.5}, ["tasks[0].report.oracle", "1.5", "task given"]),
        (("format",), "pickle", ["bundle.json: format", "'onnx', 'torchscript' or 'pt2'"]),
        (("layout",), "mixed", ["bundle.json: layout", "'nested', 'paged' or 'dense'"]),
        (("precision",), "float8", ["bundle.json: precision", "bfloat16"]),
        (
            ("prefixes",),
            [{"tasks": 1, "file": "prefix/1.onnx"}],
            ["prefixes[0].bytes is missing", "Size of that file."],
        ),
        (("name",), "a\n", ["bundle.json: name"]),
        (("files", "\x1b[2J"), "no", ["bundle.json: files['\\x1b[2J']"]),
        (("schema",), "1", ["bundle.json: schema", "'1'"]),
        (("schema",), None, ["bundle.json: schema", "None"]),
        (("schema",), "0.9.0", ["schema 0.9.0", "reads schema 1"]),
        (("schema",), "10.0.0", ["schema 10.0.0", "reads schema 1"]),
    ],
)
def test_an_error_names_the_place_and_what_is_expected(path, value, words, bundle):
    at = bundle
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(ArchiveError) as error:
        read(bundle)
    assert [w for w in words if w not in str(error.value)] == []
    assert str(error.value).isprintable()


def test_of_several_properties_that_are_not_known_the_first_is_named(bundle):
    bundle["graph"].update(colour="red", shade="dark", light=1)
    with pytest.raises(ArchiveError, match=r"graph\.colour is not known; expected: "):
        read(bundle)


def test_an_error_quotes_a_name_as_it_was_given(bundle):
    bundle["tasks"] = [{**bundle["tasks"][0], "name": "Tuple types, Input should: dictionary"}] * 2
    with pytest.raises(ArchiveError, match="two tasks are named 'Tuple types, Input should: dictionary'"):
        read(bundle)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e400}', "1e400"),
        (b'{"a": 99999999999999999999}', "64 bits"),
        (b"9" * 10_000, "64 bits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b"[" * 70 + b"]" * 70, "nested too deeply"),
        (b'{"a": "\xff"}', "utf-8"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b"", "Expecting value"),
        (b"[1]", "the document is [1]: it should be an object"),
    ],
)
def test_what_is_no_strict_json_is_refused(text, words):
    with pytest.raises(ArchiveError, match=r"bundle\.json") as error:
        read_bundle(text)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "name", ["猫", "ñandú", "до свидания", "قطة", "👍", "e\u0301", "a b", "<b>", "..", "'"]
)
def test_names_in_any_script_are_welcome(name):
    assert names_problem([(name, [name, "other"])]) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "a\n",
        "\x00",
        "\x1b[2J",
        "\x7f",
        "\u202e",
        "a\u2066b",
        "\u200b",
        "\ufeff",
        "\u2028",
        "\ud800",
        "x" * 201,
    ],
)
def test_names_that_can_not_be_seen_are_refused(name, bundle):
    assert "printable" in names_problem([(name, ["a", "b"])])
    assert "printable" in names_problem([("a", ["b", name])])


@given(st.text(max_size=300))
def test_a_name_is_accepted_only_if_a_terminal_shows_all_of_it(name):
    accepted = not names_problem([("task", [name])])
    assert accepted == (name.isprintable() and len(name.strip()) > 0 and len(name) <= 200)


@examples(60, 300)
@given(ANY_JSON)
def test_arbitrary_json_raises_nothing_but_our_error(value):
    with pytest.raises(ArchiveError):
        read(value)


@examples(60, 300)
@given(st.binary(max_size=200) | st.text().map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_arbitrary_bytes_raise_nothing_but_our_error(data):
    with pytest.raises(ArchiveError):
        read_bundle(data)


@examples(80, 400)
@given(st.data())
def test_a_good_bundle_with_anything_anywhere_is_read_or_refused_by_our_error(data):
    bundle = json.loads(_text())
    path = data.draw(st.sampled_from([p for p in places(bundle) if p]))
    at = bundle
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value = data.draw(ANY_JSON | st.sampled_from([0, 1.0, math.pi, "onnx", "1.0.0", "2.0.0"]))
    try:
        assert read(bundle) == bundle
    except ArchiveError as error:
        assert str(error).isprintable(), (path, value)


MANY = 60_000
WRONG_MANY_TIMES = {
    "classes": lambda b: b["tasks"][0].update(classes=[1] * MANY),
    "tasks": lambda b: b.update(tasks=[{}] * MANY),
    "prefixes": lambda b: b.update(prefixes=[{}] * MANY),
    "files": lambda b: b.update(files=dict.fromkeys(map(str, range(2 * MANY)), 1)),
    "graph": lambda b: b["graph"].update(dict.fromkeys(map(str, range(MANY)), 1)),
}


@pytest.mark.parametrize("place", WRONG_MANY_TIMES)
def test_what_is_wrong_many_times_takes_no_more_memory_than_what_is_right(place, bundle):
    WRONG_MANY_TIMES[place](bundle)
    data = json.dumps(bundle).encode()
    tracemalloc.start()
    try:
        parse_json(data, "bundle.json")
        right = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        with pytest.raises(ArchiveError, match=f"bundle.json: .*{place}") as error:
            read_bundle(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * right + (1 << 20)
    finally:
        tracemalloc.stop()
    assert len(str(error.value)) < 1000
