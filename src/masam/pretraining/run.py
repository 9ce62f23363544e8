"""Pre-train a SAM: from a configuration to one file of weights."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from masam.device import choose_device, training_on
from masam.errors import ConfigError
from masam.model.sam import Sam
from masam.model.sizes import find_size
from masam.pretraining.config import PretrainConfig
from masam.pretraining.loop import PretrainLoop, PretrainStep
from masam.pretraining.validate import score_prompts
from masam.progress import Progress, Silent
from masam.runs.lock import locked
from masam.runs.manifest import build_manifest, write_manifest
from masam.training.checkpoint import load_checkpoint, optimizer_moments, save_checkpoint
from masam.training.config import require_no_settings, resolve_config
from masam.training.interrupt import StopFlag
from masam.training.logs import LOG_STEPS, SAVE_SECONDS, mean_of_steps, open_logs
from masam.training.run_folder import RunFolder
from masam.weights.infer_spec import infer_sam_size
from masam.weights.tensors import write_tensors

_NOTES = "masam_pretrain"
"""Metadata key of the weights file with the facts of its training."""


@dataclass(frozen=True)
class PretrainResult:
    """Result of a pre-training run."""

    folder: RunFolder
    steps: int  # completed optimiser steps
    scores: dict[str, float]  # scores of the last validation, as returned by ``score_prompts``
    seconds: float  # duration of this process

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values."""
        return {"steps": self.steps, "seconds": round(self.seconds, 1), **self.scores}


@dataclass
class PretrainState:
    """Progress of a run; the fields are the keys of ``state.json``."""

    step: int  # completed optimiser steps
    scores: dict[str, float]  # scores of the last validation
    pending: list[PretrainStep]  # steps that ``metrics.csv`` does not include yet


def pretrain(
    out: Path | str,
    config: PretrainConfig | Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> PretrainResult:
    """Pre-train a SAM on synthetic pictures.

    Args:
        out: Run folder: a new one, or with ``resume`` an existing one.
        config: Configuration, or some of its keys; missing keys have their defaults.
        resume: Continue the run in ``out``, with its own configuration.
        progress: Progress listener.

    Raises:
        InputError: ``out`` contains another run, or no state to resume from.
        ConfigError: Settings are invalid, contradict each other, or are given together with ``resume``.
        ModelError: The saved state is damaged.
        ResourceError: Disk, memory or device is not sufficient, or another process uses ``out``.
        DivergedError: Loss or gradients stay infinite or NaN.
        StoppedError: A signal requested the stop; the state is saved.
    """
    started_utc, started, folder = datetime.now(UTC), time.monotonic(), RunFolder(Path(out))
    if resume:
        require_no_settings(config)
        settings = PretrainConfig.from_yaml(folder.root / "config.yaml")
    else:
        settings = resolve_config(PretrainConfig(), config, {})
    device = choose_device(settings.device)
    with training_on(device), locked(folder.root):
        session = _Session(folder, settings, _initial_sam(settings).to(device), device, progress or Silent())
        if resume:
            session.restore()
        else:
            folder.create(config=settings)
            # The run can be resumed from its first moment, and a full disk is noticed before hours of work.
            session.save_state()
        session.run()
        result = PretrainResult(folder, session.loop.step, session.state.scores, time.monotonic() - started)
        write_manifest(folder.manifest, build_manifest("pretrain", started=started_utc, **result.facts()))
    return result


def _initial_sam(config: PretrainConfig) -> Sam:
    """Return a SAM with random weights, which depend only on the seed; the shapes must determine the model."""
    size = find_size(config.size)
    # The random number generator of the caller is not affected.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sam = Sam(size, config.image_size)
    # If an attention window covers the whole picture, blocks with windows look like global ones.
    inferred = infer_sam_size(sam.state_dict(), size.decoder_heads)
    if (inferred.global_blocks, inferred.attention_window) != (size.global_blocks, size.attention_window):
        raise ConfigError(
            f"at {config.image_size} pixels an attention window of {size.name} covers the whole picture, and its file "
            "would be read as that of another model",
            where="image_size",
            fix=f"use more than {16 * size.attention_window} pixels, such as {size.base_image_size}",
        )
    return sam


class _Session:
    """A run in progress: the loop with validation, metrics and saved states."""

    def __init__(
        self, folder: RunFolder, config: PretrainConfig, sam: Sam, device: torch.device, progress: Progress
    ) -> None:
        self.folder, self.config, self.device, self.progress = folder, config, device, progress
        self.loop = PretrainLoop(sam, config, device)
        self.state = PretrainState(0, {}, [])
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Return to the saved state."""
        loop = self.loop
        self.state = load_checkpoint(self.folder.root, loop.modules, loop.optimizer.adamw, PretrainState, PretrainStep)
        loop.step = self.state.step
        self.folder.drop_metrics_after(loop.step)

    def run(self) -> None:
        """Train to the end, or until a signal arrives."""
        loop, total = self.loop, self.config.steps
        with StopFlag() as stop, open_logs(self.folder, loop.step, self.progress) as write_row:
            self.progress.start("pre-training", total - loop.step)
            for report in loop.steps():
                self.state.pending.append(report)
                pace = self.config.batch_pictures / report.seconds
                self.progress.advance(f"loss {report.loss:.3f} {pace:.3g} pictures/s")
                is_due = report.step % self.config.validate_every == 0 or report.step == total
                row = self._flush() if is_due or report.step % LOG_STEPS == 0 else {}
                write_row({**row, **self._validate()} if is_due else row)
                if is_due or stop.signal_number is not None or time.monotonic() - self._saved_at > SAVE_SECONDS:
                    self.save_state()
                if stop.signal_number is not None and report.step < total:
                    raise stop.error(stop.signal_number, report.step, total, self.folder.last)

    def save_state(self) -> None:
        """Write the state from which the run can resume."""
        loop = self.loop
        self.state.step = loop.step
        moments = optimizer_moments(loop.modules, loop.optimizer.adamw)
        save_checkpoint(self.folder.root, loop.modules.state_dict(), moments, asdict(self.state))
        self._saved_at = time.monotonic()

    def _flush(self) -> dict[str, float | int]:
        """Return the means over the steps since the last row."""
        reports, self.state.pending = self.state.pending, []
        return {"step": self.loop.step, **mean_of_steps(reports, "pictures", self.config.batch_pictures)}

    def _validate(self) -> dict[str, float]:
        """Score the model and write its weights."""
        self.state.scores = scores = score_prompts(self.loop.sam, self.config, self.device)
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        self.progress.log(f"step {self.loop.step}: {text}")
        facts: dict[str, Any] = {
            "made_of": "pictures made by formula", "steps": self.loop.step, "seed": self.config.seed, **scores
        }  # fmt: skip
        write_tensors(self.folder.model, self.loop.sam.state_dict(), {_NOTES: json.dumps(facts)})
        return scores
