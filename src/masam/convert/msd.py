"""Tasks of the Medical Segmentation Decathlon; Task07_Pancreas with MA-SAM's split (paper.md 5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from masam.cases.folder import channel_names
from masam.convert.conversion import Contents, Conversion, within
from masam.convert.products import COPY
from masam.convert.relabel import relabelling
from masam.errors import ConfigError, InputError
from masam.io import gate
from masam.labels import LabelScheme

PancreasLabels = Literal["tumour", "pancreas-and-tumour"]

# Fold 0 of the five in the authors' split file; the other 196 labelled cases are for training.
FOLD_0_TEST = (
    6, 10, 15, 16, 18, 19, 21, 24, 29, 46, 49, 50, 87, 104, 111, 119, 129, 131, 149, 167, 183, 193, 200, 215, 226, 230,
    239, 244, 246, 254, 259, 261, 269, 285, 289, 294, 299, 301, 303, 310, 320, 323, 326, 330, 345, 346, 347, 354, 377,
    387, 389, 398, 401, 406, 409, 412, 419,
)  # fmt: skip
FOLD_0_VALIDATION = (
    56, 61, 64, 81, 86, 89, 99, 102, 106, 125, 127, 130, 158, 169, 222, 243, 249, 253, 297, 309, 315, 329, 342, 351,
    379, 388, 392, 395,
)  # fmt: skip
PANCREAS_CASES = 281
"""Number of labelled cases of the task, which its dataset.json names."""

TUMOUR = {"background": 0, "tumour": 1}
PANCREAS_AND_TUMOUR = {"background": 0, "pancreas": 1, "tumour": 2}


def survey_msd(source: Path, root: Path, labels: PancreasLabels | None = None) -> tuple[Conversion, ...]:
    """Return the conversion of one task; ``labels`` are for Task07_Pancreas only, by default the tumour alone."""
    content = _content(within(source))
    channels = channel_names(content["modality"], source / "dataset.json")
    name = str(content.get("name", source.name))
    pairs = _training(content, source)
    is_pancreas = bool(pairs) and all(case.startswith("pancreas_") for case in pairs)
    if labels and not is_pancreas:
        raise ConfigError(f"only Task07_Pancreas has a choice of classes, this is {name}", where="--labels")
    unlabelled = {} if is_pancreas else _test(content, source)
    test = {f"pancreas_{number:03d}" for number in FOLD_0_TEST} if is_pancreas else set(unlabelled)
    validation = {f"pancreas_{number:03d}" for number in FOLD_0_VALIDATION} if is_pancreas else set()

    missing = [str(path.relative_to(source)) for pair in pairs.values() for path in pair if not path.is_file()]
    missing += [str(path.relative_to(source)) for path in unlabelled.values() if not path.is_file()]
    if is_pancreas:
        missing += [f"{case} in dataset.json" for case in sorted((test | validation) - set(pairs))]
        if len(pairs) < PANCREAS_CASES:
            missing.append(f"{PANCREAS_CASES - len(pairs)} of {PANCREAS_CASES} labelled cases in dataset.json")
    is_tumour = is_pancreas and labels != "pancreas-and-tumour"
    rule = relabelling({0: 0, 1: 0, 2: 1}) if is_tumour else COPY
    contents = Contents(missing=missing)
    for case, (image, label) in sorted(pairs.items()):
        if image.is_file() and label.is_file():
            contents.add_case(case, "Ts" if case in test else "Tr", image, label, rule, channels=len(channels))
    for case, image in sorted(unlabelled.items()):
        if image.is_file():
            contents.add_case(case, "Ts", image, None, channels=len(channels))
    return (
        Conversion(
            source=source,
            root=root,
            layout="a task of the Medical Segmentation Decathlon, with dataset.json, imagesTr and labelsTr",
            name=f"{name}-tumour" if is_tumour else name,
            description=f"{content.get('description', name)}. "
            + ("Fold 0 of MA-SAM's split file; the unlabelled scans are left out." if is_pancreas else "As it is."),
            reference=f"{content.get('reference', '')} (http://medicaldecathlon.com)".strip(),
            licence=str(content.get("licence", content.get("license", "CC-BY-SA 4.0"))),
            channel_names=channels,
            labels=_labels(content, source, is_pancreas, is_tumour),
            validation=tuple(case for case in contents.training if case in validation),
            options={"data_set": "msd"} | ({"labels": labels or "tumour"} if is_pancreas else {}),
            **contents.fields(),
        ),
    )


def _content(source: Path) -> Mapping[str, Any]:
    content = gate.read_json(source / "dataset.json")
    if not isinstance(content, dict) or not {"training", "modality", "labels"} <= set(content):
        raise InputError(
            "expected MSD's dataset.json, with modality, labels and training",
            where=source / "dataset.json",
            fix="give the folder of one task, such as Task07_Pancreas",
        )
    return content


def _labels(content: Mapping[str, Any], source: Path, is_pancreas: bool, is_tumour: bool) -> Mapping[str, int]:
    if is_pancreas:
        return TUMOUR if is_tumour else PANCREAS_AND_TUMOUR
    return LabelScheme.from_mapping(content["labels"], where=f"{source / 'dataset.json'}: labels").to_mapping()


def _training(content: Mapping[str, Any], source: Path) -> dict[str, tuple[Path, Path]]:
    """Return image and label of each labelled case in dataset.json."""
    pairs = {}
    for entry in _list(content, "training", source):
        if not isinstance(entry, dict) or not {"image", "label"} <= set(entry):
            raise InputError(f"expected image and label, got {entry!r:.80}", where=f"{source}/dataset.json: training")
        image, label = _file(entry["image"], source), _file(entry["label"], source)
        if not image.name.startswith("."):
            pairs[image.name.removesuffix(".nii.gz")] = (image, label)
    return pairs


def _test(content: Mapping[str, Any], source: Path) -> dict[str, Path]:
    files = [_file(entry, source) for entry in _list(content, "test", source)]
    return {file.name.removesuffix(".nii.gz"): file for file in files if not file.name.startswith(".")}


def _list(content: Mapping[str, Any], key: str, source: Path) -> list[Any]:
    entries = content.get(key, [])
    if not isinstance(entries, list):
        raise InputError(f"expected a list, got {entries!r:.80}", where=f"{source}/dataset.json: {key}")
    return entries


def _file(name: Any, source: Path) -> Path:
    """Return a file named in dataset.json; only files inside its folder are accepted."""
    if isinstance(name, str) and name.endswith(".nii.gz") and not {"\\", "\0", ":"} & set(name):
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts:
            return source / path
    raise InputError(f"expected the path of a .nii.gz file in this folder, got {name!r:.80}", where=source)
