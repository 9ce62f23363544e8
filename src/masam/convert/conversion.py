"""Turning a public download into a data set folder: refused as a whole, or made so that a killed run can go on.

A data set's own module says which file becomes which (``Conversion``); here all of it is checked, and made.
``dataset.json`` is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from masam import __version__, atomic
from masam.convert.channels import taking
from masam.convert.products import COPY, Product, Rewrite, begin_record, finished, make, note, writing
from masam.errors import InputError, some_of
from masam.progress import Progress, Silent

SPLITS = "splits_final.json"
"""nnU-Net's name for the folds; masam train takes them from there."""

SplitName = Literal["Tr", "Ts"]

_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_MOST_NAMES = 100
_MOST_REASONS = 5


@dataclass(frozen=True)
class Conversion:
    """A data set to make, and what the download lacks or has beside it.

    Attributes:
        source: Folder of the download.
        root: Folder to make.
        layout: How the download looks, for whoever gave another folder.
        name: Name of the data set.
        description: What it is, for a reader.
        reference: Where it comes from.
        licence: Its terms, as far as they are known.
        channel_names: What each image channel shows.
        labels: Class name to label value.
        products: Files to make.
        training: Cases to train on.
        test: Held-out cases.
        validation: Those of the training cases that the paper validates on; none where it has no such set.
        file_ending: Ending of the files.
        options: The user's choices.
        missing: What the published data set has and the download has not.
        surplus: What the download has beyond the published data set; files of unknown names are not converted.
    """

    source: Path
    root: Path
    layout: str
    name: str
    description: str
    reference: str
    licence: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    products: tuple[Product, ...]
    training: tuple[str, ...]
    test: tuple[str, ...]
    validation: tuple[str, ...] = ()
    file_ending: str = ".nii.gz"
    options: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    surplus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        root: The data set.
        training: Number of cases to train on.
        validation: Number of validation cases among them.
        test: Number of held-out cases.
        made: Files made now.
        kept: Files that an earlier run had made.
        missing: What the download lacked.
        surplus: What it had beyond the published data set.
    """

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
        return {
            "dataset": str(self.root),
            "training": self.training,
            "validation": self.validation,
            "test": self.test,
            "made": self.made,
            "kept": self.kept,
            "missing": list(self.missing),
            "surplus": list(self.surplus),
        }


def convert(
    conversions: Sequence[Conversion], *, link: bool = False, partial: bool = False, progress: Progress | None = None
) -> list[Converted]:
    """Make data sets out of downloads, which are never changed.

    Args:
        conversions: What to make; all of it is checked before anything is written.
        link: Link files whose bytes stay as they are, instead of copying them: hard links, or symbolic ones to another
            disk.
        partial: Convert what is there although something is missing, and say so in ``dataset.json``.
        progress: Told of every file.

    Returns:
        One result a conversion.

    Raises:
        InputError: The download is not the published one, files of it are refused, or a folder to make holds files of
            another data set; finished files stay, ``dataset.json`` is not written.
        ResourceError: A file cannot be read or written.
    """
    _check_downloads(conversions, partial)
    for one in conversions:
        _check_root(one)
    progress = progress or Silent()
    # Of six sites some may be missing as a whole.
    return [_make(one, link, progress) for one in conversions if one.products]


def within(source: Path, *folders: str) -> Path:
    """Return the first of some folders of the download that is there; the download itself where none is.

    Raises:
        InputError: There is no such download.
    """
    if not source.is_dir():
        raise InputError("expected the folder of the download, got none", where=source, fix="check the path")
    return next((source / folder for folder in folders if (source / folder).is_dir()), source)


def nifti_names(folder: Path) -> set[str]:
    """Return the names of a folder's ``.nii.gz`` files that are not hidden; none of a folder that is not there."""
    return {path.name for path in folder.glob("*.nii.gz") if not path.name.startswith(".")}


def case_products(
    case: str,
    split: SplitName,
    image: Path,
    label: Path | None,
    rule: str = COPY,
    rewrite: Rewrite | None = None,
    *,
    channels: int = 1,
) -> tuple[Product, ...]:
    """Return the files of a case of one NIfTI image and its labels.

    Args:
        case: Name of the case.
        split: ``Tr`` for training, ``Ts`` for held out.
        image: Its image, which is copied; one of several channels is written as one file a channel.
        label: Its labels, if it has any.
        rule: What becomes of the labels, in words.
        rewrite: Writes the labels; None copies them.
        channels: Channels of the image, along its fourth axis.
    """
    products = tuple(
        Product(image, f"images{split}/{case}_{n:04d}.nii.gz", *(taking(n, channels) if channels > 1 else ()))
        for n in range(channels)
    )
    if label is None:
        return products
    return (*products, Product(label, f"labels{split}/{case}.nii.gz", rule, rewrite))


def _check_downloads(conversions: Sequence[Conversion], partial: bool) -> None:
    """Refuse what is not the published download, with everything that is missing or surplus in one line."""
    source, layout = conversions[0].source, conversions[0].layout
    if not any(one.products for one in conversions):
        raise InputError(f"expected {layout}; no whole case of it is there", where=source, fix="check the path")
    missing = [name for one in conversions for name in one.missing]
    surplus = [name for one in conversions for name in one.surplus]
    if (missing or surplus) and not partial:
        parts = [f"{len(missing)} missing ({some_of(missing, _MOST_NAMES)})"] if missing else []
        parts += [f"{len(surplus)} surplus ({some_of(surplus, _MOST_NAMES)})"] if surplus else []
        raise InputError(
            f"this is not the published data set: {'; '.join(parts)}",
            where=source,
            fix="download what is missing and move away what is surplus, or convert what is there with --partial",
        )


def _check_root(one: Conversion) -> None:
    """Refuse a folder that lies in the download or around it, or that holds another data set."""
    source = one.source.resolve()
    # A folder of it may be a link into the download.
    places = [path.resolve() for path in (one.root, *(one.root / folder for folder in _FOLDERS))]
    if source.is_relative_to(places[0]) or any(place.is_relative_to(source) for place in places):
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
    """Make the files of one data set, all but those that are finished, and then its ``dataset.json``."""
    progress.start(one.name, len(one.products))
    done = finished(one.products, one.root, link)
    for folder in {(one.root / product.target).parent for product in one.products} | {one.root}:
        atomic.remove_stale(folder)
    # A conversion that is cut short must not look complete.
    for name in ("dataset.json", SPLITS):
        with writing(one.root / name):
            (one.root / name).unlink(missing_ok=True)
    begin_record(one.root, done.values())
    refused: list[InputError] = []
    for product in one.products:
        if product.target not in done:
            try:
                note(one.root, make(product, one.root, link))
            except InputError as error:
                # The other files are no worse for it, and whoever has to repair some wants to know of all.
                refused.append(error)
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
    """Write the split, where the paper has a validation set, and ``dataset.json``."""
    from masam.cases.splits import Split, write_splits

    validated = set(one.validation)
    split: Split = {"train": [case for case in one.training if case not in validated], "val": list(one.validation)}
    if split["train"] and split["val"]:
        write_splits(one.root / SPLITS, [split], one.training)
    description = one.description
    if one.missing or one.surplus:
        faults = (("missing", one.missing), ("surplus", one.surplus))
        listed = "; ".join(f"{len(names)} {word} ({some_of(names, _MOST_NAMES)})" for word, names in faults if names)
        description += f" Not the whole published data set: {listed}."
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
