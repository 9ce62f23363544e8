"""The settings of a table of training variants, as in ``ablation.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from masam.config import Settings

Changes = dict[str, Any]
"""Value by key: a key of ``config.yaml``, with a dot for groups, or ``plan.`` and a key of ``plan.yaml``."""

PLAN_PREFIX = "plan."

_TABLE_KEYS = ("seed", "fold", "folds")
"""Keys that decide which cases are scored, or that the table varies; they are the same in all rows."""


class AblationConfig(Settings):
    """The settings that all rows of a table share, and the changes of each row."""

    dataset: str = Field(description="data set folder of volumes (nnU-Net v2 or MSD layout) or of videos")
    config: str | None = Field(default=None, description="config.yaml of all rows; null for the defaults")
    plan: str | None = Field(default=None, description="plan.yaml of all rows; null derives it from the data")
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="seeds with which every row is trained")
    folds: tuple[int, ...] | None = Field(
        default=None, min_length=1, description="folds that every row holds out in turn; null for the fold in config"
    )
    settings: Changes = Field(default={}, description="changes of all rows, with the same keys as in a row")
    rows: dict[str, Changes] = Field(min_length=1, description="the variants by name, and the changes of each")
    baseline: str | None = Field(
        default=None, description="row that the others are compared with; null for the first row"
    )
    stride: int = Field(default=1, ge=1, description="slices from one window to the next when cases are predicted")
    reference_empty: Literal["nan", "one"] = Field(
        default="nan", description="Dice of a class that is absent from both masks: not scored, or 1 as in the paper"
    )

    @field_validator("seeds", "folds")
    @classmethod
    def _different(cls, numbers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if numbers is not None and (len(set(numbers)) < len(numbers) or min(numbers) < 0):
            raise ValueError("expected different numbers, 0 or more")
        return numbers

    @field_validator("rows")
    @classmethod
    def _valid_rows(cls, rows: dict[str, Changes]) -> dict[str, Changes]:
        by_folder: dict[str, str] = {}
        for name, changes in rows.items():
            folder = folder_name(name)
            if not folder or not name.isprintable():
                raise ValueError(f"expected a name with a letter or a digit, got {name!r}")
            first = by_folder.setdefault(folder.casefold(), name)
            if first != name:
                raise ValueError(f"the names {first!r} and {name!r} would share the folder {folder!r}")
            if taken := [key for key in _TABLE_KEYS if key in changes]:
                raise ValueError(f"expected no key {taken[0]} in row {name!r}, as rows share seeds and cases")
        return rows

    # Any, because pydantic's ValidationInfo is a protocol that cannot be checked at run time.
    @field_validator("settings")
    @classmethod
    def _not_varied(cls, settings: Changes, info: Any) -> Changes:
        varied = ("seed",) if info.data.get("folds") is None else ("seed", "fold")
        if taken := [key for key in varied if key in settings]:
            raise ValueError(f"expected no key {taken[0]} here, which the table varies by {taken[0]}s")
        return settings

    @field_validator("baseline")
    @classmethod
    def _one_of_the_rows(cls, baseline: str | None, info: Any) -> str | None:
        rows = info.data.get("rows", {baseline})
        if baseline is not None and baseline not in rows:
            raise ValueError(f"expected one of {', '.join(rows)}")
        return baseline

    @property
    def first(self) -> str:
        """Name of the row that the others are compared with."""
        return self.baseline or next(iter(self.rows))


def folder_name(row: str) -> str:
    """Return the name of a row for a folder: letters, digits, hyphens and underscores."""
    return re.sub(r"[^\w-]+", "-", row).strip("-")


def split_changes(changes: Mapping[str, Any]) -> tuple[Changes, Changes]:
    """Return the changes of the configuration, and the changes of the plan without their prefix."""
    plan = {key.removeprefix(PLAN_PREFIX): value for key, value in changes.items() if key.startswith(PLAN_PREFIX)}
    return {key: value for key, value in changes.items() if not key.startswith(PLAN_PREFIX)}, plan
