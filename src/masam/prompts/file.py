"""JSON file with the prompts of many cases."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from masam.config import Settings
from masam.errors import ConfigError
from masam.io import gate
from masam.prompts.records import Box3D, Click, Prompt, Unit


class PromptEntry(Settings):
    """One prompt: a box, a positive click or a negative click."""

    class_name: str | None = Field(default=None, description="class of the object; null if the model has one class")
    box: tuple[float, ...] | None = Field(default=None, description="x0, y0, z0, x1, y1, z1")
    click: tuple[float, ...] | None = Field(default=None, description="x, y, z of a point on the object")
    not_click: tuple[float, ...] | None = Field(default=None, description="x, y, z of a point outside the object")


class PromptFile(Settings):
    """Prompts of many cases."""

    unit: Unit = Field(default="voxel", description="unit of all numbers, voxel or mm")
    cases: dict[str, tuple[PromptEntry, ...]] = Field(description="case id to prompts")


def read_prompts(path: Path) -> dict[str, tuple[Prompt, ...]]:
    """Read the prompts of many cases.

    Args:
        path: JSON file ``{"unit": "voxel", "cases": {"CASE": [{"class_name": "liver", "box": [...]}, ...]}}``.

    Returns:
        Case id to prompts.

    Raises:
        InputError: The file cannot be opened or is not JSON.
        ConfigError: A key is unknown or a prompt is invalid; the message states file, case and number of the prompt.
    """
    content = PromptFile.from_mapping(gate.read_json(path), where=path)
    prompts = {}
    for case, entries in content.cases.items():
        if not entries:
            raise ConfigError("expected at least one prompt, got none", where=f"{path}, {case}", fix="omit the case")
        prompts[case] = tuple(
            _prompt(entry, content.unit, f"{path}, {case}, prompt {number}")
            for number, entry in enumerate(entries, start=1)
        )
    return prompts


def _prompt(entry: PromptEntry, unit: Unit, where: str) -> Prompt:
    given = [key for key in ("box", "click", "not_click") if getattr(entry, key) is not None]
    if len(given) != 1:
        raise ConfigError(f"expected one of box, click and not_click, got {', '.join(given) or 'none'}", where=where)
    try:
        if entry.box is not None:
            return Box3D(entry.box, unit, entry.class_name)
        return Click(entry.click or entry.not_click or (), entry.click is not None, unit, entry.class_name)
    except ConfigError as error:
        raise ConfigError(error.what, where=where, fix=error.fix) from error
