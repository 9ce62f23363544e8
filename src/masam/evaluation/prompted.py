"""Evaluation with prompts: boxes and clicks are simulated from the references, and the answers are scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.cases.folder import Case, find_images, load_case
from masam.errors import ConfigError, InputError, some_of
from masam.evaluation.cases import Cases, collect_cases, is_video, load_labels, pair_single_cases
from masam.evaluation.overlap import count_overlap
from masam.evaluation.prompts import PromptEvaluation, PromptScore
from masam.evaluation.summary import read_scheme, to_channels
from masam.labels import LabelScheme
from masam.model.masam import Masam
from masam.predict.predictor import Predictor
from masam.predict.requirements import (
    match_channels,
    require_channels,
    require_modality,
    require_trained_with_prompts,
)
from masam.progress import Progress, Silent, warn_with
from masam.prompts import Click, Prompt
from masam.prompts.simulated_user import BOXES, correct, draw_boxes
from masam.volume import Volume

Mask = NDArray[np.bool_]


def evaluate_prompts(
    model: Predictor | Masam | str | Path,
    images: str | Path | Mapping[str, str | Path | Volume],
    references: Cases,
    labels: LabelScheme | Mapping[str, Any] | str | Path | None = None,
    *,
    clicks: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> PromptEvaluation:
    """Score a model without prompts, with boxes and after clicks that are simulated from the references.

    Each class of a case is prompted and scored separately; the other classes are segmented automatically, as in
    ``masam predict``. :mod:`masam.prompts.simulated_user` defines the boxes. The first click is placed in the largest
    error of the automatic segmentation, each further click in the largest error of the previous answer, and all clicks
    so far are given as prompts. If no error can be clicked, the score is repeated. Voxels that a reference marks as
    ``ignore`` are excluded.

    A volume is encoded once; each prompt only runs the decoder.

    Args:
        model: A predictor, or anything that ``Predictor`` accepts.
        images: Folder of scans or a single scan, or a mapping from case id to a scan or a volume.
        references: Folder of label files or a single file, or a mapping from case id to a file or a volume. They
            determine the cases.
        labels: Label scheme, the ``labels`` of a ``dataset.json``, or the path of that file, with some or all classes
            of the model; by default the model's classes.
        clicks: Number of clicks per class, at least 1.
        seed: Seed of the jittered boxes, at least 0. A box is a function of seed, case id and class name.
        progress: Receives each encoded window and each answer.

    Returns:
        Scores of each case and class, and their summaries.

    Raises:
        ConfigError: A number is out of range, or a class does not belong to the model.
        InputError: There is no case, a reference has no scan, or a file is invalid.
        ModelError: The model is for videos, was trained without prompts, or predicts values that are not finite.
        ResourceError: A file is not readable, or memory is insufficient.
    """
    if clicks < 1:
        raise ConfigError(f"expected 1 click or more, got {clicks}", where="clicks")
    if seed < 0:
        raise ConfigError(f"expected a seed of 0 or more, got {seed}", where="seed")
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    require_modality(predictor.plan, is_video=False, what=images if isinstance(images, str | Path) else "a volume")
    require_trained_with_prompts(predictor.ensemble.models)
    scheme = predictor.plan.scheme if labels is None else read_scheme(labels)
    _require_classes(scheme, predictor.plan.scheme)
    pairs = _pair(predictor, images, references)
    progress, scores = progress or Silent(), list[PromptScore]()
    for number, (case, (scan, reference)) in enumerate(pairs.items(), start=1):
        progress.log(f"case {number} of {len(pairs)}: {case}")
        # Not bound to a name, so that its volumes are freed before the next case.
        scores += _Session(predictor, case, scan, reference, scheme, progress).scores(clicks, seed, progress)
    return PromptEvaluation(
        tuple(scores), tuple(pairs), tuple(label.name for label in scheme.foreground), BOXES, clicks, seed
    )


class _Session:
    """One encoded case with its reference."""

    def __init__(
        self,
        predictor: Predictor,
        case: str,
        scan: Case | Volume,
        reference: Path | Volume,
        scheme: LabelScheme,
        progress: Progress,
    ) -> None:
        image, truth = _load(case, scan, reference, scheme, progress)
        self.predictor, self.case = predictor, case
        self.encoded = predictor.encode(image, progress)
        self.values = {label.name: label.value for label in predictor.plan.scheme.labels}
        self.channels = to_channels(truth, scheme, f"reference {case}", ignore=True)
        numbered = enumerate(scheme.foreground, start=1)
        self.present = {label.name: channel for channel, label in numbered if (self.channels == channel).any()}
        self.scored = np.ones(truth.shape, bool) if scheme.ignore_value is None else truth.array != scheme.ignore_value
        trace = self.encoded.prepared.trace
        self.seen = trace.labels_to_volume(np.ones(trace.crop.size, np.uint8)).array == 1
        self.spacing_mm = truth.geometry.spacing_mm

    def scores(self, clicks: int, seed: int, progress: Progress) -> Iterator[PromptScore]:
        progress.start("answers", 1 + len(self.present) * (len(BOXES) + clicks))
        automatic = self.predictor.predict(self.encoded).array
        progress.advance()
        for name, channel in self.present.items():
            yield self._score(name, self.channels == channel, automatic == self.values[name], clicks, seed, progress)

    def _score(
        self, name: str, reference: Mask, automatic: Mask, clicks: int, seed: int, progress: Progress
    ) -> PromptScore:
        def dice(answer: Mask) -> float:
            return count_overlap(reference, answer, ~self.scored).dice()

        boxes = draw_boxes(reference, self.seen, name, _generator(seed, self.case, name))
        by_box = dict.fromkeys(BOXES, dice(automatic))
        for kind, box in boxes.items():
            by_box[kind] = dice(self._answer(name, [box]))
            progress.advance()
        answer, given, by_click = automatic, list[Click](), list[float]()
        for _ in range(clicks):
            # Errors outside the cropped region or in ignored voxels cannot be clicked.
            clickable = np.where(self.seen & self.scored, answer, reference)
            click = correct(reference, clickable, self.spacing_mm, name, given)
            if click is not None:
                given.append(click)
                answer = self._answer(name, given)
            by_click.append(dice(answer))
            progress.advance()
        return PromptScore(self.case, name, dice(automatic), by_box, tuple(by_click))

    def _answer(self, name: str, prompts: Sequence[Prompt]) -> Mask:
        answer: Mask = self.predictor.predict(self.encoded, prompts=prompts).array == self.values[name]
        return answer


def _generator(seed: int, case: str, name: str) -> np.random.Generator:
    # Python's hash of a string differs between processes.
    digest = hashlib.sha256(f"{case}\0{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, int.from_bytes(digest[:16], "big")))))


def _require_classes(scheme: LabelScheme, of_model: LabelScheme) -> None:
    known = [label.name for label in of_model.foreground]
    if unknown := [label.name for label in scheme.foreground if label.name not in known]:
        raise ConfigError(
            f"expected classes of the model, {some_of(known)}, got {some_of(unknown)}",
            where="labels",
            fix="give the labels of a data set with the model's classes",
        )


def _pair(
    predictor: Predictor, images: str | Path | Mapping[str, str | Path | Volume], references: Cases
) -> dict[str, tuple[Case | Volume, Path | Volume]]:
    """Find the scan of each reference; a single scan and a single reference need not have the same name."""
    _, paired = pair_single_cases(references, references)
    expected = collect_cases(paired, "references")
    scans: dict[str, Case | Volume]
    if isinstance(images, Mapping):
        scans = {case: item if isinstance(item, Volume) else Case(case, (Path(item),)) for case, item in images.items()}
    else:
        scans = {case.id: case for case in find_images(Path(images))}
        if paired is not references and len(scans) == 1:
            scans = dict(zip(expected, scans.values(), strict=True))
    if videos := [case for case, item in expected.items() if is_video(item)]:
        raise InputError("prompts are supported for scans, but this reference is a video", where=expected[videos[0]])
    where = images if isinstance(images, str | Path) else None
    checks = ((expected, scans, "references have no scan"), (scans, expected, "scans have no reference"))
    for one, other, what in checks:
        if absent := [case for case in one if case not in other]:
            raise InputError(
                f"{len(absent)} of {len(one)} {what}: {some_of(absent, 8)}",
                where=where,
                fix="give a folder of scans and a folder of their references",
            )
    # Checks the channels of all scans before the first one is scored.
    return {case: (_with_channels(predictor, case, scans[case]), expected[case]) for case in expected}


def _with_channels(predictor: Predictor, case: str, scan: Case | Volume) -> Case | Volume:
    if isinstance(scan, Case):
        return match_channels(predictor.plan, scan)
    require_channels(predictor.plan, scan.channels, where=case)
    return scan


def _load(
    case: str, scan: Case | Volume, reference: Path | Volume, scheme: LabelScheme, progress: Progress
) -> tuple[Volume, Volume]:
    """Return image and reference of a case, on the same grid."""
    if isinstance(scan, Case) and isinstance(reference, Path):
        image, truth = load_case(scan.with_label(reference, scheme), on_note=warn_with(progress))
        if truth is not None:
            return image, truth
    image = scan if isinstance(scan, Volume) else load_case(scan, on_note=warn_with(progress))[0]
    (truth,) = load_labels([reference], case, scheme)
    if truth.shape != image.shape or not image.geometry.matches(truth.geometry, image.shape):
        raise InputError("the reference is not on the voxel grid of the scan", where=case, fix="resample the reference")
    return image, truth
