"""What the models of the contract are made of, and what is wrong with JSON that is none of theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    GetCoreSchemaHandler,
    Strict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

T = TypeVar("T")
_LONGEST, _MOST = 300, 1 << 16
_OBJECT, _LIST = "it should be an object", "it should be a list"
_KINDS = {"model_type": _OBJECT, "dict_type": _OBJECT, "tuple_type": _LIST, "list_type": _LIST}
_WORDS = {
    "Input should": "it should",
    "Tuple": "it",
    "tuple": "list",
    " after validation": "",
    ", unable to parse string as an integer": "",
    ", unable to parse string as a number": "",
}
STRICT = ConfigDict(
    frozen=True, strict=True, use_attribute_docstrings=True, protected_namespaces=(), regex_engine="python-re"
)


class Closed(BaseModel):
    """A JSON object with these properties and no other."""

    model_config = ConfigDict(**STRICT, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _is_small(cls, data: Any) -> Any:
        """Each key that is not known is an error of its own, and a file of megabytes would have gigabytes of
        them: the first one is enough."""
        known = {field.alias or name for name, field in cls.model_fields.items()}
        if not isinstance(data, dict) or len(data) <= len(known):
            return data
        first = next(key for key in data if key not in known)
        return {key: value for key, value in data.items() if key in known or key == first}


class Open(BaseModel):
    """A JSON object in which a later minor version may stand more."""

    model_config = ConfigDict(**STRICT, extra="allow")


class _NotNull:
    """Of what may be left out: null is refused."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return handler(next(kind for kind in get_args(source) if kind is not NoneType))


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _as_given(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    check(value)
    return value


def _few(data: Any) -> Any:
    """Each wrong value is an error of its own."""
    if isinstance(data, dict) and len(data) > _MOST:
        raise ValueError(f"it holds {len(data)} properties; expected at most {_MOST}")
    return data


Maybe = Annotated[T | None, _NotNull()]
"""What may be left out, and is None then."""
Many = Annotated[tuple[T, ...], Strict(False), FailFast()]
ByName = Annotated[dict[str, T], BeforeValidator(_few)]
WHOLE = BeforeValidator(_whole)
"""Last in the annotations of an integer: as JSON Schema has it, 1.0 is one."""
AS_GIVEN = WrapValidator(_as_given)
"""Last in those of a number: a whole one stays one, so that it is written as it was read."""


class _Published(GenerateJsonSchema):
    """Without titles and defaults, which say nothing to who reads a schema."""

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def _update_class_schema(self, json_schema: JsonSchemaValue, *rest: Any) -> None:
        super()._update_class_schema(json_schema, *rest)
        json_schema.pop("title", None)


def as_json(part: BaseModel) -> dict[str, Any]:
    """What was given of ``part``, and nothing else."""
    return part.model_dump(by_alias=True, exclude_unset=True)


def json_schema(model: type[BaseModel], refs: str = "#/$defs/{model}") -> JsonSchemaValue:
    """The JSON Schema (2020-12) of what ``model`` takes."""
    return model.model_json_schema(ref_template=refs, schema_generator=_Published)


def in_words(problem: Mapping[str, Any]) -> str:
    """What pydantic says, of what a file holds rather than of Python's types. What a validator of
    the contract says stays as it is: it may quote a name that the user gave."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    message: str = problem["msg"]
    for found, better in _WORDS.items():
        message = message.replace(found, better)
    return message


def told(error: ValidationError, kind: type[BaseModel], data: Any) -> str:
    """The first thing that is wrong with ``data`` as a ``kind``: where, what was found, what was expected.
    Of a ``kind`` whose configuration hides what is given in errors, nothing that was found is shown."""
    first, hidden = error.errors(include_url=False)[0], hides(kind)
    place = list(_place(first["loc"], data))
    steps = (f".{s}" if str(s).isidentifier() else f"[{s!r}]" for s in place)
    where = "".join(steps).removeprefix(".") or "the document"
    said, expected = _KINDS.get(first["type"]) or in_words(first), _described(kind, place)
    match first["type"]:
        case "missing":
            wrong = "is missing"
        case "extra_forbidden":
            where, wrong = "a property" if hidden else where, "is not known"
        case "json_invalid":  # what was found is the whole file
            return f"{where}: {said}"
        case "value_error" if not place and not hidden:
            return said
        case _ if hidden:
            wrong = "is wrong" if first["type"] == "value_error" else f"is wrong: {said}"
        case _:
            wrong = f"is {_short(repr(first['input']))}: {said}"
    return f"{where} {wrong}" + (f"; expected: {expected}" if expected else "")


def hides(kind: type[BaseModel]) -> bool:
    """Whether what a ``kind`` holds is a secret, which no error shows."""
    return bool(kind.model_config.get("hide_input_in_errors"))


def _place(steps: tuple[int | str, ...], data: Any) -> Iterator[int | str]:
    """Without the members of a union, which pydantic names too. What is missing is the last step."""
    for number, step in enumerate(steps, 1):
        if isinstance(data, list if isinstance(step, int) else dict):
            if isinstance(data, list):
                data = data[int(step)]
            elif step in data or number == len(steps):
                data = data.get(step)
            else:
                return
            yield step


def _described(kind: Any, place: list[int | str]) -> str:
    """What the contract says of the property in which ``place`` lies, or what else there is beside it."""
    said = ""
    for step in place:
        model = _model(kind)
        if model and isinstance(step, str):
            fields = {field.alias or name: field for name, field in model.model_fields.items()}
            if step not in fields:
                return ", ".join(fields)
            said, kind = fields[step].description or "", fields[step].annotation
    return said


def _model(kind: Any) -> type[BaseModel] | None:
    """The model that a value of this kind is, or holds."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for inner in get_args(kind) if (found := _model(inner))), None)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:100]} ... {text[-100:]}"
