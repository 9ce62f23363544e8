"""The label scheme: class names, their values in label files, and their channels in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError

IGNORE_NAME = "ignore"
"""nnU-Net's name for unlabelled voxels, which losses and metrics ignore."""

# The colour-blind-safe palette of Okabe and Ito without black, then lighter tints.
PALETTE: tuple[tuple[int, int, int], ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (255, 205, 112), (170, 221, 255), (112, 219, 189), (120, 120, 220), (255, 163, 120), (235, 180, 215),
)  # fmt: skip


@dataclass(frozen=True)
class Label:
    """One class.

    Attributes:
        value: Value in label files, 0 to 65535.
        name: Name in ``dataset.json``.
        colour: RGB, each 0 to 255.
    """

    value: int
    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class LabelScheme:
    """The classes of a data set; channel k of the model is ``labels[k]``.

    Attributes:
        labels: Background, then the foreground classes by ascending value.
        ignore_value: Value of unlabelled voxels, or None.
    """

    labels: tuple[Label, ...]
    ignore_value: int | None = None

    @classmethod
    def from_mapping(cls, mapping: Mapping[Any, Any], where: object = "labels") -> LabelScheme:
        """Read the ``labels`` of a ``dataset.json``.

        Args:
            mapping: nnU-Net's ``{"background": 0, "spleen": 1}`` or MSD's ``{"0": "background", "1": "spleen"}``.
            where: File and key, for error messages.

        Raises:
            InputError: Values are not distinct integers from 0 to 65535, names are not distinct, or class 0 is missing.
        """
        if not isinstance(mapping, Mapping) or not mapping:
            raise InputError(f"expected a mapping of names to values, got {mapping!r}", where=where)
        by_value: dict[int, str] = {}
        for key, value in mapping.items():
            if isinstance(value, list | tuple):
                raise InputError(
                    f"region-based labels are not supported (class {key!r} is made of {value})",
                    where=where,
                    fix="give each class one value",
                )
            # MSD maps value (as a string) to name, nnU-Net name to value.
            number, name = (key, value) if isinstance(value, str) and str(key).isdecimal() else (value, key)
            if isinstance(number, bool) or not str(number).isdecimal() or int(number) > 65535:
                raise InputError(f"expected an integer from 0 to 65535 for class {name!r}, got {number!r}", where=where)
            if int(number) in by_value:
                first = by_value[int(number)]
                raise InputError(f"value {number} is assigned to both {first!r} and {name!r}", where=where)
            by_value[int(number)] = str(name)
        if len(set(by_value.values())) != len(by_value):
            raise InputError(f"duplicate class names: {sorted(by_value.values())}", where=where)
        ignore = next((v for v, n in by_value.items() if n == IGNORE_NAME), None)
        values = sorted(v for v in by_value if v != ignore)
        if not values or values[0] != 0:
            raise InputError("expected a background class with value 0", where=where)
        if len(values) < 2:
            raise InputError("expected at least one class besides the background", where=where)
        labels = [Label(0, by_value[0], (0, 0, 0))]
        labels += [Label(v, by_value[v], PALETTE[i % len(PALETTE)]) for i, v in enumerate(values[1:])]
        return cls(tuple(labels), ignore)

    @property
    def foreground(self) -> tuple[Label, ...]:
        """All classes except the background."""
        return self.labels[1:]

    @property
    def num_classes(self) -> int:
        """Number of foreground classes, one less than the channels of the model."""
        return len(self.labels) - 1

    def to_mapping(self) -> dict[str, int]:
        """Return nnU-Net's mapping of names to values."""
        mapping = {label.name: label.value for label in self.labels}
        return mapping if self.ignore_value is None else {**mapping, IGNORE_NAME: self.ignore_value}

    def to_channels(
        self, values: NDArray[np.integer], where: object = None, ignore_index: int = -100
    ) -> NDArray[np.int16]:
        """Convert label values to channel numbers.

        Args:
            values: Integers of any shape; ``ignore_index`` is preserved.
            where: File, for error messages.
            ignore_index: Result for the ignore value.

        Returns:
            0 to ``num_classes``, or ``ignore_index``, in the same shape.

        Raises:
            InputError: A value is not in the scheme.
        """
        present, inverse = np.unique(values, return_inverse=True)
        table = {label.value: channel for channel, label in enumerate(self.labels)}
        if self.ignore_value is not None:
            table[self.ignore_value] = ignore_index
        unknown = [int(v) for v in present if int(v) not in table and int(v) != ignore_index]
        if unknown:
            raise InputError(
                f"label value {', '.join(map(str, unknown[:8]))} is not in dataset.json, which defines {sorted(table)}",
                where=where,
                fix="add the class to dataset.json or correct the label file",
            )
        channels = np.array([table.get(int(v), ignore_index) for v in present], dtype=np.int16)
        return channels[inverse].reshape(values.shape)

    def to_values(self, channels: NDArray[np.integer]) -> NDArray[np.uint16] | NDArray[np.uint8]:
        """Convert channel numbers (0 to ``num_classes``) to label values of the smallest sufficient type."""
        top = max(label.value for label in self.labels)
        table = np.array([label.value for label in self.labels], dtype=np.uint8 if top < 256 else np.uint16)
        return table[channels]
