"""Convert a public download to a data set folder, so that an interrupted conversion can be resumed.

The module of each data set describes which file becomes which (:class:`Conversion`); this module checks the description
and makes the files. ``dataset.json`` is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from masam import __version__, atomic
from masam.cases.splits import SPLITS_FILE, Split, write_splits
from masam.convert.products import COPY, Product, Rule, add_to_record, begin_record, finished, make
from masam.errors import InputError, some_of
from masam.io.nifti.file import read_channel, write_volume
from masam.progress import Progress, Silent

SplitName = Literal["Tr", "Ts"]

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_MOST_NAMES = 100
_MOST_REASONS = 5


@dataclass(frozen=True)
class Conversion:
    """A data set to make, and how the download differs from the published one."""

    source: Path  # folder of the download
    root: Path  # folder to make
    layout: str  # layout of the download, for the error message if it is not found
    name: str  # name of the data set
    description: str
    reference: str  # where it was published
    licence: str  # its terms, as far as they are known
    channel_names: tuple[str, ...]  # content of each image channel
    labels: Mapping[str, int]  # class name to label value
    products: tuple[Product, ...]  # files to make
    training: tuple[str, ...]  # training cases
    test: tuple[str, ...]  # held-out cases
    validation: tuple[str, ...] = ()  # training cases that the paper validates on; empty if it has no such set
    file_ending: str = ".nii.gz"
    options: Mapping[str, str] = field(default_factory=dict)  # the user's choices
    missing: tuple[str, ...] = ()  # items of the published data set that the download lacks
    surplus: tuple[str, ...] = ()  # items that are not in the published data set, which are not converted


@dataclass
class Contents:
    """The files and cases of a download, collected case by case; the fields are those of :class:`Conversion`."""

    products: list[Product] = field(default_factory=list)
    training: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)

    def add_case(
        self,
        case: str,
        split: SplitName,
        image: Path,
        label: Path | None,
        rule: Rule = COPY,
        *,
        channels: int = 1,
    ) -> None:
        """Add a case with one NIfTI image, and its labels with the rule by which they are made.

        An image of several channels, which are along its fourth axis, becomes one file per channel.
        """
        for n in range(channels):
            take = Rule(f"channel {n} of {channels}", partial(take_channel, index=n, channels=channels))
            target = f"images{split}/{case}_{n:04d}.nii.gz"
            self.products.append(Product(image, target, COPY if channels == 1 else take))
        if label is not None:
            self.products.append(Product(label, f"labels{split}/{case}.nii.gz", rule))
        (self.training if split == "Tr" else self.test).append(case)

    def __add__(self, other: Contents) -> Contents:
        return Contents(**{name: values + getattr(other, name) for name, values in vars(self).items()})

    def fields(self) -> dict[str, Any]:
        """Return the arguments for :class:`Conversion`."""
        return {name: tuple(values) for name, values in vars(self).items()}


@dataclass(frozen=True)
class Converted:
    """The result of a conversion: numbers of cases, and of files made now or kept from an earlier run."""

    root: Path
    training: int
    validation: int
    test: int
    made: int
    kept: int
    missing: tuple[str, ...]
    surplus: tuple[str, ...]

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        values = asdict(self)
        root = str(values.pop("root"))
        return {"dataset": root, **values, "missing": list(self.missing), "surplus": list(self.surplus)}


def convert(
    conversions: Sequence[Conversion], *, link: bool = False, partial: bool = False, progress: Progress | None = None
) -> list[Converted]:
    """Make data sets from downloads, which are never changed; all are checked before anything is written.

    ``link`` makes hard links to files whose bytes are not changed, or symbolic ones to another disk, instead of copies.
    ``partial`` converts an incomplete download, and notes in ``dataset.json`` what is missing. After an error, finished
    files are kept and there is no ``dataset.json``.
    """
    _check_downloads(conversions, partial)
    for one in conversions:
        _check_root(one)
    progress = progress or Silent()
    # A conversion without products is a data set of which nothing was downloaded, such as one of six sites.
    return [_make(one, link, progress) for one in conversions if one.products]


def within(source: Path, *folders: str) -> Path:
    """Return the first of several subfolders of a download that exists, or the download itself."""
    if not source.is_dir():
        raise InputError("expected the folder of the download, got none", where=source, fix="check the path")
    return next((source / folder for folder in folders if (source / folder).is_dir()), source)


def nifti_names(folder: Path) -> set[str]:
    """Return the names of the ``.nii.gz`` files in a folder, without hidden files; empty if there is no folder."""
    return {path.name for path in folder.glob("*.nii.gz") if not path.name.startswith(".")}


def take_channel(source: Path, target: Path, *, index: int, channels: int) -> None:
    """Write channel ``index`` of a NIfTI file with ``channels`` along its fourth axis as a file of three axes."""
    write_volume(target, read_channel(source, index, channels))


def _check_downloads(conversions: Sequence[Conversion], partial: bool) -> None:
    """Refuse a download that is not the published one, with all that is missing or surplus in one line."""
    source, layout = conversions[0].source, conversions[0].layout
    if not any(one.products for one in conversions):
        raise InputError(f"expected {layout}; found no complete case", where=source, fix="check the path")
    missing = [name for one in conversions for name in one.missing]
    surplus = [name for one in conversions for name in one.surplus]
    if (missing or surplus) and not partial:
        raise InputError(
            f"this is not the published data set: {_list_faults(missing, surplus)}",
            where=source,
            fix="download what is missing and move away what is surplus, or convert what is there with --partial",
        )


def _list_faults(missing: Sequence[str], surplus: Sequence[str]) -> str:
    faults = (("missing", missing), ("surplus", surplus))
    return "; ".join(f"{len(names)} {word} ({some_of(names, _MOST_NAMES)})" for word, names in faults if names)


def _check_root(one: Conversion) -> None:
    """Refuse a folder inside or around the download, or with files of another data set."""
    source = one.source.resolve()
    # A folder of it may be a link into the download.
    folders = [path.resolve() for path in (one.root, *(one.root / folder for folder in _FOLDERS))]
    if source.is_relative_to(folders[0]) or any(folder.is_relative_to(source) for folder in folders):
        raise InputError(
            f"expected a folder apart from the download {one.source}, which is never changed",
            where=one.root,
            fix="name another folder",
        )
    expected = {product.target for product in one.products}
    foreign = sorted(
        path
        for folder in _FOLDERS
        for path in (one.root / folder).rglob("*")
        if not path.is_dir() and not path.name.startswith(".") and path.relative_to(one.root).as_posix() not in expected
    )
    if foreign:
        raise InputError(
            f"expected a new folder or this data set's own, found {len(foreign)} other files, first {foreign[0]}",
            where=one.root,
            fix="name another folder, or delete this one",
        )


def _make(one: Conversion, link: bool, progress: Progress) -> Converted:
    """Make the files of one data set that are not finished, and then its ``dataset.json``."""
    progress.start(one.name, len(one.products))
    done = finished(one.products, one.root, link)
    for folder in {(one.root / product.target).parent for product in one.products} | {one.root}:
        atomic.remove_stale(folder)
    # Removed first: an interrupted conversion must not look complete.
    for name in ("dataset.json", SPLITS_FILE):
        with atomic.os_errors(one.root / name):
            (one.root / name).unlink(missing_ok=True)
    begin_record(one.root, done.values())
    refused: list[InputError] = []
    for product in one.products:
        if product.target not in done:
            try:
                add_to_record(one.root, make(product, one.root, link))
            except InputError as error:
                refused.append(error)  # the other files are made, so that all refused ones are reported at once
        progress.advance(product.target)
    if refused:
        reasons = "; ".join(str(error) for error in refused[:_MOST_REASONS])
        more = f"; and {len(refused) - _MOST_REASONS} more" if len(refused) > _MOST_REASONS else ""
        raise InputError(
            f"{len(refused)} of {len(one.products)} files are refused: {reasons}{more}",
            fix="the others are converted; repair or download these again, and repeat the command",
        )
    _finish(one)
    made = len(one.products) - len(done)
    counts = (len(one.training), len(one.validation), len(one.test), made, len(done))
    return Converted(one.root, *counts, one.missing, one.surplus)


def _finish(one: Conversion) -> None:
    """Write the split, if the paper has a validation set, and ``dataset.json``."""
    validation = set(one.validation)
    split: Split = {"train": [case for case in one.training if case not in validation], "val": list(one.validation)}
    if split["train"] and split["val"]:
        write_splits(one.root / SPLITS_FILE, [split], one.training)
    description = one.description
    if faults := _list_faults(one.missing, one.surplus):
        description += f" Not the whole published data set: {faults}."
    content = {
        "name": one.name,
        "description": description,
        "reference": one.reference,
        "licence": one.licence,
        "channel_names": {str(n): name for n, name in enumerate(one.channel_names)},
        "labels": dict(one.labels),
        "numTraining": len(one.training),
        "numTest": len(one.test),
        "file_ending": one.file_ending,
        "masam_convert": {"version": __version__, **one.options},
    }
    atomic.write_text(one.root / "dataset.json", json.dumps(content, indent=2) + "\n")
