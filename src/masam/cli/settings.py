"""Settings given on the command line: ``--set KEY=VALUE``."""

from __future__ import annotations

from typing import Any


def parse_settings(options: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Return the settings that a command line gives.

    Args:
        options: Values of the command's own options by key; ``a.b`` is key b of the group a. None is not given.
        assignments: Texts ``KEY=VALUE`` of ``--set``, which have priority.

    Raises:
        ConfigError: A text is not an assignment of a plain value.
    """
    import yaml

    from masam.errors import ConfigError

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
