"""Derive the preprocessing plan of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from masam.cases.folder import Case, CaseFolder, load_case, read_dataset
from masam.preprocess.fingerprint import fingerprint
from masam.preprocess.plan import Plan, make_plan, make_video_plan
from masam.progress import Progress, Silent, warn_with
from masam.training.cases import are_videos
from masam.training.prefetch import prefetch
from masam.training.suggest import parse_memory, suggest
from masam.volume import Volume


def plan_dataset(
    dataset: CaseFolder | Path | str,
    progress: Progress | None = None,
    preset: str | None = None,
    memory: str | None = None,
) -> Plan:
    """Read every training case of a data set and derive its preprocessing plan; for videos, take that of the preset.

    Args:
        dataset: Data set, or its folder.
        progress: Progress listener.
        preset: Name of the paper's rules to use, such as ``paper-ct``; None derives the rules from the data.
        memory: Memory available for training, such as ``8GB``; the plan then suggests the largest model that fits.

    Raises:
        InputError: A case is refused.
        ConfigError: The preset is unknown, or the memory is invalid or too small.
    """
    memory_bytes = None if memory is None else parse_memory(memory)
    if not isinstance(dataset, CaseFolder):
        dataset = read_dataset(Path(dataset))
    progress = progress or Silent()
    if are_videos(dataset.training or dataset.test):
        plan = make_video_plan(name=dataset.name, labels=dataset.labels, preset=preset)
    else:
        progress.start("reading cases", len(dataset.training))
        plan = make_plan(
            fingerprint(_read_ahead(dataset.training, progress), ignore_value=dataset.labels.ignore_value),
            name=dataset.name,
            channel_names=dataset.channel_names,
            labels=dataset.labels,
            preset=preset,
        )
    if memory_bytes is None:
        return plan
    return plan.model_copy(update={"suggestion": suggest(plan, memory_bytes, progress)})


def _read_ahead(cases: Sequence[Case], progress: Progress) -> Iterator[tuple[Volume, Volume | None]]:
    """Yield cases in order while other cores read the next ones; at most one volume per core is in memory."""
    cores = os.cpu_count() or 1
    with closing(prefetch(_read, cases, cores, most_ahead=cores - 1)) as volumes:
        for case, (volume, notes) in zip(cases, volumes, strict=True):
            for note in notes:
                warn_with(progress)(note)
            yield volume
            progress.advance(case.id)


def _read(case: Case) -> tuple[tuple[Volume, Volume | None], list[str]]:
    notes: list[str] = []
    return load_case(case, on_note=notes.append), notes
