"""Group the files of a data set into cases and pair images with labels; faults are raised or collected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from masam.cases.case import Case
from masam.errors import InputError


class Faults:
    """Faults of a data set.

    Args:
        strict: Raise the first fault instead of collecting all of them.

    Attributes:
        messages: The collected faults.
    """

    def __init__(self, *, strict: bool) -> None:
        self._strict = strict
        self.messages: list[str] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect an InputError that is raised in this context, or pass it on if strict."""
        try:
            yield
        except InputError as error:
            if self._strict:
                raise
            self.messages.append(str(error))

    def add(self, what: str, *, where: object, fix: str | None = None) -> None:
        """Report a fault; the arguments are those of :class:`masam.errors.MasamError`."""
        with self.collect():
            raise InputError(what, where=where, fix=fix)


def group_cases(
    files: Iterable[tuple[str, int, Path]], *, where: object, channels: int | None, faults: Faults | None = None
) -> tuple[Case, ...]:
    """Group files, given as case id, channel and path, into cases that are sorted by id.

    Faults are missing channels, unexpected channels, and duplicate ids, ignoring upper and lower case, which some file
    systems do not distinguish. They are collected in ``faults``, or the first is raised; cases with a collected fault
    may lack images. ``where`` is named in errors, and ``channels`` None accepts any number.
    """
    faults = faults or Faults(strict=True)
    groups: dict[str, dict[int, Path]] = {}
    first_ids: dict[str, str] = {}
    for case_id, channel, path in files:
        first_id = first_ids.setdefault(case_id.casefold(), case_id)
        group = groups.setdefault(first_id, {})
        if case_id != first_id or channel in group:
            twin = group.get(channel) or next(iter(group.values()))
            faults.add(
                f"{twin.name} and {path.name} have the same case id (upper and lower case are equal)",
                where=where,
                fix="rename or remove one",
            )
        else:
            group[channel] = path
    for case_id, group in groups.items():
        expected = range(channels or max(group) + 1)
        for channel in sorted(set(expected) - set(group)):
            faults.add(f"case {case_id} has no channel {channel:04d}", where=where, fix="add the file")
        for channel in sorted(set(group) - set(expected)):
            faults.add(
                f"unexpected channel {channel:04d} of case {case_id}, dataset.json defines {channels} channel(s)",
                where=group.pop(channel),
                fix="remove the file, or correct channel_names",
            )
    return tuple(Case(case_id, tuple(group[c] for c in sorted(group))) for case_id, group in sorted(groups.items()))


def index_by_case(
    paths: Sequence[Path], case_id: Callable[[Path], str], where: Path, faults: Faults | None = None
) -> dict[str, Path]:
    """Return the one path of each case, by case id; duplicates are faults as in :func:`group_cases`."""
    cases = group_cases([(case_id(path), 0, path) for path in paths], where=where, channels=1, faults=faults)
    return {case.id: case.images[0] for case in cases}


def pair_with_labels(
    cases: Sequence[Case],
    labels: Mapping[str, Path],
    label_folder: Path,
    expected_image: Callable[[str], str],
    faults: Faults,
) -> tuple[Case, ...]:
    """Return the training cases that have a label, given by case id.

    Images without labels and labels without images are faults. ``label_folder`` is named in errors, and
    ``expected_image`` returns the missing image of a case id.
    """
    for case in cases:
        if case.id not in labels:
            faults.add(f"no label for image {case.id}", where=label_folder, fix="add the label, or remove the image")
    for case_id in sorted(labels.keys() - {case.id for case in cases}):
        faults.add("no image for this label", where=labels[case_id], fix=f"add {expected_image(case_id)}")
    return tuple(replace(case, label=labels[case.id]) for case in cases if case.id in labels)


def check_num_training(content: Mapping[str, Any], found: int, root: Path, faults: Faults) -> None:
    """Compare ``numTraining`` of a ``dataset.json``, if given, with the number of training cases found."""
    expected = content.get("numTraining", found)
    if expected != found:
        faults.add(
            f"numTraining is {expected!r}, found {found} training cases",
            where=root / "dataset.json",
            fix="correct the number, or add the missing cases",
        )
