"""AMOS22: abdominal CT and MR, with its own classes or with BTCV's for the generalisation test (paper.md 5.5)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from masam.convert.btcv import MERGED as BTCV_LABELS
from masam.convert.conversion import Contents, Conversion, SplitName, nifti_names, within
from masam.convert.products import COPY, Rule
from masam.convert.relabel import relabelling
from masam.io import gate

Modality = Literal["ct", "mr", "both"]
Classes = Literal["amos", "btcv"]
HeldOut = Literal["validation", "test"]

LAST_CT = 500
"""Ids up to this one are CT. The readme says "below 500", public code "up to 500"; no scan seems to have id 500."""

COUNTS: Mapping[str, Mapping[Modality, int]] = {
    "imagesTr": {"ct": 200, "mr": 40},
    "imagesVa": {"ct": 100, "mr": 20},
    "imagesTs": {"ct": 200, "mr": 40},
}
"""Published numbers of scans; the first two folders have labels."""

AMOS_LABELS = {
    "background": 0, "spleen": 1, "right_kidney": 2, "left_kidney": 3, "gallbladder": 4, "esophagus": 5, "liver": 6,
    "stomach": 7, "aorta": 8, "postcava": 9, "pancreas": 10, "right_adrenal_gland": 11, "left_adrenal_gland": 12,
    "duodenum": 13, "bladder": 14, "prostate_uterus": 15,
}  # fmt: skip

TO_BTCV = {**{value: value for value in range(10)}, 10: 11, 11: 12, 12: 12, 13: 0, 14: 0, 15: 0}
"""AMOS value to the value of the same organ in a BTCV model of 12 classes; organs that BTCV lacks are background."""

LABELS_AS_BTCV = {name: value for name, value in BTCV_LABELS.items() if value in TO_BTCV.values()}
"""The 11 organs of both data sets. AMOS lacks BTCV's veins (10), so predictions of them become background."""

_NAME = re.compile(r"amos_(\d{4})\.nii\.gz")


def survey_amos22(
    source: Path, root: Path, modality: Modality = "ct", labels: Classes = "amos", held_out: HeldOut = "validation"
) -> tuple[Conversion, ...]:
    """Return the conversion of a download.

    Labels are the 15 classes of AMOS, or the 11 shared with BTCV, with the values of the 12-class BTCV model. Held out
    is the labelled validation set, without the unlabelled test set; or the test set, and training uses the other two
    with their published split.
    """
    within(source)
    rule = relabelling(TO_BTCV) if labels == "btcv" else COPY
    splits: dict[str, SplitName] = {"imagesTr": "Tr", "imagesVa": "Ts"}
    if held_out == "test":
        splits = {"imagesTr": "Tr", "imagesVa": "Tr", "imagesTs": "Ts"}
    of_folders = {folder: _contents(source, folder, modality, split, rule) for folder, split in splits.items()}
    contents = sum(of_folders.values(), Contents())
    contents.training.sort()
    return (
        Conversion(
            source=source,
            root=root,
            layout="AMOS22's imagesTr, imagesVa, labelsTr and labelsVa with amos_NNNN.nii.gz",
            name=f"AMOS22-{'CT-MR' if modality == 'both' else modality.upper()}",
            description=f"Abdominal scans ({modality}); classes: {labels}; held out: the {held_out} set. "
            + ("Values are those of the 12-class BTCV model without its veins (10). " if labels == "btcv" else "")
            + f"Ids up to {LAST_CT} are CT.",
            reference="https://zenodo.org/records/7262581",
            licence="sources disagree: CC BY 4.0, CC BY-NC or CC BY-SA; see the page that you downloaded it from",
            channel_names=({"ct": "CT", "mr": "MR", "both": "CT or MR"}[modality],),
            labels=LABELS_AS_BTCV if labels == "btcv" else AMOS_LABELS,
            validation=tuple(of_folders["imagesVa"].training),
            options={"data_set": "amos22", "modality": modality, "labels": labels, "held_out": held_out},
            **contents.fields(),
        ),
    )


def _is_scan(name: str, modality: Modality) -> bool:
    """Check whether a file is a scan of a modality."""
    match = _NAME.fullmatch(name)
    return match is not None and modality in ("both", "ct" if int(match[1]) <= LAST_CT else "mr")


def _contents(source: Path, folder: str, modality: Modality, split: SplitName, rule: Rule) -> Contents:
    """Compare a folder with the download's dataset.json, or without one with the published numbers."""
    label_folder = folder.replace("images", "labels")
    names = nifti_names(source / folder)
    images = {name for name in names if _is_scan(name, modality)}
    labels = {name for name in nifti_names(source / label_folder) if _is_scan(name, modality)}
    named = {name for name in _named(source, folder) if _is_scan(name, modality)}
    needs_labels = folder != "imagesTs"
    contents = Contents()
    for name in sorted(images & (named or images)):
        if name in labels or not needs_labels:
            label = source / label_folder / name if name in labels else None
            contents.add_case(name.removesuffix(".nii.gz"), split, source / folder / name, label, rule)
    missing = [f"{folder}/{name}" for name in sorted((named | labels) - images)]
    missing += [f"{label_folder}/{name}" for name in sorted((named | images) - labels) if needs_labels]
    surplus = [f"{folder}/{name}" for name in sorted(names) if not _NAME.fullmatch(name)]
    surplus += [f"{folder}/{name}" for name in sorted(images - named) if named]
    for kind, expected in COUNTS[folder].items():
        if named or modality not in (kind, "both"):
            continue
        found = sum(_is_scan(name, kind) for name in images | labels)
        if found < expected:
            missing.append(f"{expected - found} of {expected} {kind.upper()} scans in {folder}")
        elif found > expected:
            surplus.append(f"{found - expected} {kind.upper()} scans more than the {expected} of {folder}")
    contents.missing, contents.surplus = missing, surplus
    return contents


def _named(source: Path, folder: str) -> set[str]:
    """Return the files of a folder that the download's ``dataset.json`` names; empty if there is no such file."""
    if not (source / "dataset.json").is_file():
        return set()
    # Found by their form, because the nesting of the lists differs between releases.
    text = gate.read_bytes(source / "dataset.json").decode("utf-8", errors="replace")
    return set(re.findall(rf"{folder}/(amos_\d{{4}}\.nii\.gz)", text))
