"""Cross-validation splits of a data set, in the format of nnU-Net's ``splits_final.json``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np

from masam import atomic
from masam.errors import ConfigError, InputError, some_of
from masam.io import gate

SPLITS_FILE = "splits_final.json"
"""Name of the file with the published splits of a data set folder."""


class Split(TypedDict):
    """Ids of the training and validation cases of one fold, as in nnU-Net's ``splits_final.json``."""

    train: list[str]
    val: list[str]


def make_splits(case_ids: Iterable[str], folds: int = 5, seed: int = 12345) -> list[Split]:
    """Split cases for cross-validation into folds that differ in size by at most one case.

    Args:
        case_ids: Ids in any order; the result does not depend on it.
        folds: Number of folds, 2 to the number of cases.
        seed: Seed of the random order, 0 or more.
    """
    ids = sorted(case_ids)
    if repeated := _repeated(ids):
        raise InputError(f"repeated case ids: {some_of(sorted(repeated))}")
    if not 2 <= folds <= len(ids):
        raise ConfigError(f"expected 2 to {len(ids)} folds for {len(ids)} cases, got {folds}", where="folds")
    if seed < 0:
        raise ConfigError(f"expected a seed of 0 or more, got {seed}", where="seed")
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(ids))
    splits: list[Split] = []
    for part in np.array_split(order, folds):
        val = {ids[i] for i in part}
        splits.append({"train": [i for i in ids if i not in val], "val": sorted(val)})
    return splits


def read_splits(path: Path, case_ids: Iterable[str]) -> list[Split]:
    """Read a ``splits_final.json``; a fold need not contain all cases of the data set.

    Raises:
        InputError: The file is not a list of folds, or a fold contains an unknown or repeated id.
    """
    content = gate.read_json(path)
    if not isinstance(content, list):
        raise InputError(f"expected a list of folds, got {type(content).__name__}", where=path)
    for number, fold in enumerate(content):
        where = f"{path}: fold {number}"
        if not isinstance(fold, dict) or set(fold) != {"train", "val"}:
            raise InputError(f"expected a mapping with the keys train and val, got {fold!r:.80}", where=where)
        for key, ids in fold.items():
            if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
                raise InputError(f"expected a list of case ids, got {ids!r:.80}", where=f"{where}: {key}")
    _check_splits(content, case_ids, path)
    return content


def write_splits(path: Path, splits: Sequence[Split], case_ids: Iterable[str]) -> None:
    """Write a ``splits_final.json``, which nnU-Net can read as well, after the checks of :func:`read_splits`."""
    _check_splits(splits, case_ids, path)
    atomic.write_text(path, json.dumps(list(splits), indent=4, ensure_ascii=False) + "\n")


def _check_splits(splits: Sequence[Split], case_ids: Iterable[str], path: Path) -> None:
    known = set(case_ids)
    if not splits:
        raise InputError("expected at least one fold", where=path)
    for number, split in enumerate(splits):
        where = f"{path}: fold {number}"
        for key, ids in (("train", split["train"]), ("val", split["val"])):
            if not ids:
                raise InputError("expected at least one case", where=f"{where}: {key}")
            if unknown := set(ids) - known:
                raise InputError(f"not in the data set: {some_of(sorted(unknown))}", where=f"{where}: {key}")
            if repeated := _repeated(ids):
                raise InputError(f"repeated case ids: {some_of(sorted(repeated))}", where=f"{where}: {key}")
        if both := set(split["train"]) & set(split["val"]):
            raise InputError(f"in both train and val: {some_of(sorted(both))}", where=where)


def _repeated(ids: Sequence[str]) -> list[str]:
    return [a for a, b in pairwise(sorted(ids)) if a == b]
