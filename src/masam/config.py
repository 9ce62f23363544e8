"""Settings: immutable models that are read from YAML and validated once, on creation."""

from __future__ import annotations

import difflib
import json
import re
import stat
import typing
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from masam.atomic import write_text
from masam.errors import ConfigError, ResourceError, brief

MAX_CONFIG_BYTES = 1 << 20
"""Maximum size of a settings file; larger files are not settings."""

_MAX_SHOWN = 5
_SENTENCES = {
    "missing": "missing key",
    "union_tag_not_found": "missing key that selects the variant",
}


# The run-time type checker of the tests does not support typing.Self here.
SettingsT = TypeVar("SettingsT", bound="Settings")


class Settings(BaseModel):
    """Base class of settings: immutable, no unknown keys, no type conversion (``"5"`` and ``true`` are not numbers).

    ``Field(description=...)`` states meaning and unit of a field, and becomes a comment in YAML.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def from_mapping(cls: type[SettingsT], mapping: object, where: object) -> SettingsT:
        """Validate a mapping of plain values, as read from YAML or JSON.

        Args:
            mapping: Keys and values.
            where: Source of the mapping, for error messages.

        Raises:
            ConfigError: A key is unknown or missing, or a value is invalid; the message lists all errors.
        """
        if not isinstance(mapping, Mapping):
            raise ConfigError(f"expected a mapping of keys to values, got {brief(mapping)}", where=where)
        try:
            # Via JSON, since pydantic's strict mode accepts lists for tuples only there.
            return cls.model_validate_json(json.dumps(dict(mapping), default=str))
        except ValidationError as error:
            errors = [_described(cls, mapping, detail) for detail in error.errors(include_url=False)]
            more = f"; and {len(errors) - _MAX_SHOWN} more" if len(errors) > _MAX_SHOWN else ""
            raise ConfigError("; ".join(errors[:_MAX_SHOWN]) + more, where=where) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigError(f"expected plain values, got {error}", where=where) from error

    @classmethod
    def from_yaml(cls: type[SettingsT], path: Path) -> SettingsT:
        """Read settings from a YAML file.

        Raises:
            ConfigError: The file does not exist, is not YAML, has duplicate keys, or fails ``from_mapping``.
            ResourceError: The file cannot be read.
        """
        return cls.from_mapping(_load_yaml(_read_text(path), path), where=path)

    def changed(self: SettingsT, changes: Mapping[str, Any], where: object) -> SettingsT:
        """Return a copy with some keys replaced.

        Args:
            changes: Key to value; ``a.b`` is key b of group a. A mapping replaces an entire group.
            where: Source of the changes, for error messages.

        Raises:
            ConfigError: A key is unknown, or a value is invalid.
        """
        values = self.model_dump(mode="json")
        for key, value in changes.items():
            *groups, last = key.split(".")
            target = values
            for group in groups:
                target = target.setdefault(group, {})
                if not isinstance(target, dict):
                    raise ConfigError(f"{key}: {group} is a single value, not a group", where=where)
            target[last] = value
        return self.from_mapping(values, where)

    def dump_yaml(self) -> str:
        """Return the settings as YAML, with the description of each top-level key as a comment."""
        values = self.model_dump(mode="json")
        parts = []
        for name, field in type(self).model_fields.items():
            comment = f"# {' '.join(field.description.split())}\n" if field.description else ""
            parts.append(comment + yaml.dump({name: values[name]}, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
        return "\n".join(parts)

    def to_yaml(self, path: Path) -> None:
        """Write :meth:`dump_yaml` to a file atomically.

        Raises:
            ResourceError: The file cannot be written.
        """
        write_text(path, self.dump_yaml())


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, without duplicate keys and aliases, and with ``1e-4`` as a number."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Reject aliases, whose nesting can expand without bound."""
        if self.check_event(yaml.AliasEvent):
            mark = self.get_mark()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not supported", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Reject duplicate keys, of which PyYAML keeps the last."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """The dumper for this loader, which quotes text that the loader would read as a number."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote text with non-ASCII line breaks, which PyYAML would write unquoted and read back as spaces."""
    style = '"' if re.search("[\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)

# PyYAML implements YAML 1.1, where floats need a dot and a signed exponent; users and Python's repr write 1e-4.
_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
for _resolver in (_Loader, _Dumper):
    _resolver.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _read_text(path: Path) -> str:
    try:
        status = path.stat()
        # Opening a pipe would block until it has a writer.
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError("expected a settings file, got a folder or a device", where=path)
        if status.st_size > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"expected a settings file of at most {MAX_CONFIG_BYTES} bytes, got {status.st_size}", where=path
            )
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected UTF-8 text ({error})", where=path) from error
    except FileNotFoundError as error:
        raise ConfigError("settings file not found", where=path, fix="check the path") from error
    except (OSError, ValueError) as error:
        raise ResourceError(f"the settings file cannot be read ({error})", where=path) from error


def _load_yaml(text: str, where: Path) -> object:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a safe loader
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{line}{error.problem}", where=where, fix="correct the YAML") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not readable as YAML ({error})", where=where, fix="correct the YAML") from error


def _described(model: type[BaseModel], mapping: object, detail: ErrorDetails) -> str:
    """Format one of pydantic's errors: key path, expected value, actual value."""
    kind, loc = detail["type"], detail["loc"]
    key = _key_path(mapping, loc)
    prefix = f"{key}: " if key else ""
    if kind == "extra_forbidden":
        keys = sorted(_known_keys(model, loc[:-1]))
        near = difflib.get_close_matches(str(loc[-1]), keys, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(keys)}"
        return f"{prefix}unknown key; {hint}"
    if kind in _SENTENCES:
        return prefix + _SENTENCES[kind]
    expected = detail["msg"].removeprefix("Value error, ")
    expected = re.sub(r"^Input should be ", "expected ", expected)
    return f"{prefix}{expected}, got {brief(detail['input'])}"


def _key_path(mapping: object, loc: tuple[int | str, ...]) -> str:
    """Return the key path in the user's mapping, without the union variants that pydantic inserts."""
    path: list[str] = []
    here = mapping
    for position, part in enumerate(loc, start=1):
        entries = dict(enumerate(here)) if isinstance(here, list | tuple) else here
        if isinstance(entries, Mapping) and part in entries:
            here = entries[part]
        elif position < len(loc):
            continue
        path.append(str(part))
    return ".".join(path)


def _known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """Return the keys of the settings at a path."""
    models = {model}
    for part in loc:
        annotations = [
            m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields
        ]
        models = set().union(*map(_models_in, annotations)) or models
    return {key for m in models for key in m.model_fields}


def _models_in(annotation: object) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*map(_models_in, typing.get_args(annotation)))
