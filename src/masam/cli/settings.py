"""Settings given on the command line: ``--set KEY=VALUE``."""

from __future__ import annotations

from typing import Any

from masam.errors import ConfigError


def parse_settings(options: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Return the settings of a command line by key; ``a.b`` is key b of the group a.

    ``options`` are those of the command, None if not given; the texts ``KEY=VALUE`` of ``--set`` have priority.
    """
    import yaml

    settings = {key: value for key, value in options.items() if value is not None}
    for assignment in assignments or []:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, got {assignment!r}", where="--set")
        try:
            settings[key.strip()] = parse_number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"expected a plain value for {key}, got {value!r}", where="--set") from error
    return settings


def parse_number(value: Any) -> Any:
    """Convert a text such as 1e-4, which YAML 1.1 does not recognise, to a number; return other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
