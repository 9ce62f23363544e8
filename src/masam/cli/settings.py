"""Settings given on the command line: ``--set KEY=VALUE``."""

from __future__ import annotations

from typing import Any


def with_settings(base: Any, given: dict[str, Any], assignments: list[str]) -> Any:
    """Return settings with some keys replaced.

    Args:
        base: Settings of any kind.
        given: Value by key, of a command's own options; ``a.b`` is key b of the settings under a.
        assignments: Texts ``KEY=VALUE`` of ``--set``, which go before.

    Raises:
        ConfigError: A text is no assignment, a key is unknown, or a value is not what its key expects.
    """
    import yaml

    from masam.errors import ConfigError

    changes = dict(given)
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"expected KEY=VALUE, got {assignment!r}", where="--set")
        try:
            changes[key.strip()] = number(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise ConfigError(f"expected a plain value for {key}, got {value!r}", where="--set") from error
    return base.changed(changes, where="options")


def require_none_given(*given: object) -> None:
    """Refuse settings beside ``--resume``: a run that goes on keeps its own.

    Args:
        given: Values of all options that would set something.

    Raises:
        ConfigError: One of them is not empty.
    """
    from masam.errors import ConfigError

    if any(given):
        raise ConfigError("a resumed run keeps its settings; give none", where="--resume", fix="or start a new run")


def number(value: Any) -> Any:
    """Return a text such as 1e-4, which YAML 1.1 takes for no number, as the number that is meant."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value
