"""BTCV: abdominal CT of the challenge "Beyond the Cranial Vault", with MA-SAM's split and classes (paper.md 5.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from masam.convert.conversion import Contents, Conversion, SplitName, nifti_names, within
from masam.convert.products import COPY
from masam.convert.relabel import relabelling

Adrenal = Literal["merged", "separate"]

IDS = tuple(f"{n:04d}" for n in (*range(1, 11), *range(21, 41)))
"""The labelled cases."""

TEST_IDS = tuple(f"{n:04d}" for n in range(35, 41))
"""The held-out cases; all others are for training. There is no validation set."""

CLASSES = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "veins", "pancreas", "adrenal_glands",
)  # fmt: skip
"""Classes from value 1 on, with the adrenal glands merged; "veins" are the portal and the splenic vein."""

MERGED = {"background": 0} | {name: value for value, name in enumerate(CLASSES, start=1)}
SEPARATE = {name: value for name, value in MERGED.items() if value < 12} | {
    "right_adrenal_gland": 12,
    "left_adrenal_gland": 13,
}
MERGING = {value: min(value, 12) for value in range(14)}


def survey_btcv(source: Path, root: Path, adrenal: Adrenal = "merged") -> tuple[Conversion, ...]:
    """Return the conversion of a download; the adrenal glands are one class, as in the paper, or two."""
    folder = within(source, "RawData/Training", "Training")
    rule = relabelling(MERGING) if adrenal == "merged" else COPY
    images, labels = nifti_names(folder / "img"), nifti_names(folder / "label")
    contents = Contents()
    for number in IDS:
        image, label = f"img{number}.nii.gz", f"label{number}.nii.gz"
        if image in images and label in labels:
            split: SplitName = "Ts" if number in TEST_IDS else "Tr"
            contents.add_case(f"btcv_{number}", split, folder / "img" / image, folder / "label" / label, rule)
    expected = {f"img/img{n}.nii.gz" for n in IDS} | {f"label/label{n}.nii.gz" for n in IDS}
    found = {f"img/{name}" for name in images} | {f"label/{name}" for name in labels}
    contents.missing, contents.surplus = sorted(expected - found), sorted(found - expected)
    return (
        Conversion(
            source=source,
            root=root,
            layout="BTCV's Training/img/imgNNNN.nii.gz and Training/label/labelNNNN.nii.gz",
            name="BTCV",
            description="Abdominal CT in the portal venous phase, 30 labelled cases; MA-SAM's split: 0035 to 0040 are "
            f"held out. Adrenal glands: {adrenal}.",
            reference="https://www.synapse.org/Synapse:syn3193805",
            licence="Synapse's terms of use of the challenge's data; not to be passed on",
            channel_names=("CT",),
            labels=MERGED if adrenal == "merged" else SEPARATE,
            options={"data_set": "btcv", "adrenal": adrenal},
            **contents.fields(),
        ),
    )
