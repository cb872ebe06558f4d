"""Strict configuration: frozen pydantic models, epsilon as a fraction, YAML only at the edge."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from dfcore.errors import ConfigError

__all__ = ["Config", "Epsilon", "format_epsilon", "parse_epsilon", "read_yaml", "suggest"]

# Every 8-bit budget has a short fraction of 255; a value that is none is kept as a decimal.
_GREY_LEVELS = 255


def parse_epsilon(value: object) -> float:
    """Read a budget in pixel units of [0, 1].

    Args:
        value: a number in [0, 1] or a string such as "8/255" or "0.03".

    Returns:
        The budget as a float in [0, 1].

    Raises:
        ValueError: it is no number, or lies outside [0, 1].

    >>> parse_epsilon("8/255") == 8 / 255
    True
    """
    try:
        number = _read_fraction(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type]  # any number-like
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"expected an epsilon such as 8/255, got {value!r}") from error
    if str(value).strip() == "1":
        raise ValueError("expected an epsilon such as 8/255, got 1; write 1/255 or 255/255 for what you mean")
    if not 0 <= number <= 1:
        raise ValueError(
            f"expected an epsilon in pixel units of [0, 1], got {value}; "
            f"write {value}/255 if you mean {value} grey levels"
        )
    return number


def _read_fraction(text: str) -> float:
    # Fraction alone refuses "0.5/255", which format_epsilon writes.
    numerator, separator, denominator = text.partition("/")
    return float(Fraction(numerator) / Fraction(denominator if separator else 1))


def format_epsilon(value: float) -> str:
    """Write a budget the way it is reported: "8/255".

    >>> format_epsilon(8 / 255), format_epsilon(0.5 / 255), format_epsilon(0.0)
    ('8/255', '0.5/255', '0/255')
    """
    return f"{round(value * _GREY_LEVELS, 6):g}/{_GREY_LEVELS}"


Epsilon = Annotated[float, BeforeValidator(parse_epsilon), PlainSerializer(format_epsilon, when_used="json")]


def suggest(unknown: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" or the list of known names."""
    names = sorted(known)
    close = difflib.get_close_matches(unknown, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"


def read_yaml(path: Path, what: str = "a YAML file", *, secret: bool = False) -> Any:
    """Read a YAML (or JSON) file.

    Args:
        path: the file, in UTF-8.
        what: it holds, for the error.
        secret: keep what the file holds out of the error, which may be logged.

    Returns:
        Plain data; None for an empty file.

    Raises:
        ConfigError: the file is missing or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"expected {what} at {path}, got: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        if secret:
            raise ConfigError(f"expected YAML of {what} at {path}, got something else") from None
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


class Config(BaseModel):
    """A frozen configuration in which an unknown key is an error that suggests the right one."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def parse(cls, data: object, source: str = "configuration") -> Self:
        """Validate plain data.

        Raises:
            ConfigError: naming every key that does not fit and what was expected.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            problems = "; ".join(_explain(cls, item) for item in error.errors())
            raise ConfigError(f"{source}: {problems}") from error

    @classmethod
    def from_yaml(cls, path: Path) -> Self:
        """Read and validate a YAML (or JSON) file.

        Raises:
            ConfigError: the file is missing, is no YAML, or does not fit.
        """
        return cls.parse(read_yaml(path), source=str(path))

    def override(self, assignments: Iterable[str]) -> Self:
        """Return a copy with `a.b=value` assignments applied; values are read as YAML.

        Raises:
            ConfigError: an assignment without "=", an unknown key, or a value that does not fit.
        """
        data = self.model_dump(mode="python")
        for assignment in assignments:
            key, separator, text = assignment.partition("=")
            if not separator:
                raise ConfigError(f"expected key=value, got {assignment!r}")
            node: Any = data
            *parents, leaf = key.split(".")
            for depth in range(len(parents)):
                node = _child(node, key, depth)
            before = _child(node, key, len(parents))
            try:
                node[leaf] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"the value of {key} is not valid YAML: {text!r}") from error
            if parents and leaf == "kind" and node[leaf] != before:
                parent = ".".join(parents)
                raise ConfigError(
                    f"expected {parent} whole where its kind changes, got {assignment!r} beside settings of "
                    f"{before!r}; use --set '{parent}={{kind: {text}, …}}'"
                )
        return type(self).parse(data, source="after --set")


def _child(node: Any, key: str, depth: int) -> Any:
    names = key.split(".")
    parent, name = ".".join(names[:depth]), names[depth]
    if node is None or node == {}:
        shown = "null" if node is None else "empty"
        raise ConfigError(
            f"unknown key {key!r}, as {parent} is {shown}; set it whole: --set '{parent}={{{name}: …}}'"
        )
    if not isinstance(node, dict):
        raise ConfigError(f"unknown key {key!r}, as {parent} is {node!r} and has no keys")
    if name not in node:
        raise ConfigError(f"unknown key {key!r}{suggest(name, node)}")
    return node[name]


def _explain(model: type[BaseModel], item: Any) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {location!r}{suggest(str(item['loc'][-1]), _keys(model))}"
    if item["type"] == "value_error":  # our own words, which say what came
        message = item["msg"].removeprefix("Value error, ")
        return f"{location}: {message}" if location else message
    return f"{location}: {item['msg']} (got {item['input']!r})"


def _keys(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield field.alias or name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation)
