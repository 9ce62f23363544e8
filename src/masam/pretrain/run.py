"""A pre-training run as a whole: from settings to one file of SAM's weights."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from masam.device import choose_device, training_on
from masam.errors import ConfigError, StoppedError
from masam.model.sam import Sam
from masam.model.sizes import find_size
from masam.pretrain.config import PretrainConfig
from masam.pretrain.loop import PretrainLoop, PretrainStep
from masam.pretrain.validate import score_prompts
from masam.progress import Progress, Silent
from masam.runs.lock import locked
from masam.training.interrupt import StopFlag
from masam.training.logs import Logs
from masam.training.run_folder import RunFolder, damaged_state, load_tensors, optimizer_moments
from masam.weights.infer_spec import infer_sam_size
from masam.weights.tensors import write_tensors

_SAVE_SECONDS = 600.0
"""The state is saved at least this often; a crash costs no more."""

_LOG_STEPS = 20
"""Steps that share a row of metrics.csv."""

_NOTES = "masam_pretrain"
"""Key of the weights' metadata that says how they were made."""


@dataclass(frozen=True)
class PretrainResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        steps: Optimiser steps done.
        scores: Of the last validation, as ``score_prompts`` returns them.
        seconds: Time spent, of this process.
    """

    folder: RunFolder
    steps: int
    scores: dict[str, float]
    seconds: float


def pretrain(
    out: Path, config: PretrainConfig | None = None, *, resume: bool = False, progress: Progress | None = None
) -> PretrainResult:
    """Pre-train a SAM on pictures made by formula.

    Args:
        out: The run folder; a new one, or with ``resume`` one to go on with.
        config: How to train; None with ``resume``, whose run folder holds it.
        resume: Go on where the run in ``out`` stopped.
        progress: Told of everything.

    Raises:
        InputError: ``out`` is taken, or holds nothing to go on from.
        ConfigError: Settings do not fit each other.
        ModelError: The saved state is damaged.
        ResourceError: Disk, memory or device is not enough, or another process trains into ``out``.
        DivergedError: Numbers do not stay finite.
        StoppedError: A signal asked to stop; the state is saved.
    """
    started, folder = time.monotonic(), RunFolder(out)
    settings = PretrainConfig.from_yaml(out / "config.yaml") if resume else config or PretrainConfig()
    device = choose_device(settings.device)
    with training_on(device), locked(out):
        session = _Session(folder, settings, _fresh_sam(settings).to(device), device, progress or Silent())
        if resume:
            session.restore()
        else:
            folder.require_free()
            folder.metrics.unlink(missing_ok=True)
            settings.to_yaml(out / "config.yaml")
            # Now, so that whatever ends the run it can be gone on with, and a full disk is known before hours of work.
            session.save_state()
        session.go()
    return PretrainResult(folder, session.loop.step, session.scores, time.monotonic() - started)


def _fresh_sam(config: PretrainConfig) -> Sam:
    """Return a SAM at its first values, which depend on the seed alone.

    Raises:
        ConfigError: At this image size the weights' shapes would not tell which model they are of.
    """
    size = find_size(config.size)
    # The caller's own stream of random numbers goes on as if nothing had been drawn.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        sam = Sam(size, config.image_size)
    # Where the whole grid is as large as a window of attention, blocks that see either cannot be told apart.
    found = infer_sam_size(sam.state_dict(), size.decoder_heads)
    if (found.global_blocks, found.attention_window) != (size.global_blocks, size.attention_window):
        raise ConfigError(
            f"at {config.image_size} pixels the windows of {size.name} are the whole picture, and its file would be "
            "taken for another model's",
            where="image_size",
            fix=f"take more than {16 * size.attention_window} pixels, such as {size.base_image_size}",
        )
    return sam


class _Session:
    """The loop of a run with its validation, its log and its files."""

    def __init__(
        self, folder: RunFolder, config: PretrainConfig, sam: Sam, device: torch.device, progress: Progress
    ) -> None:
        self.folder, self.config, self.device, self.progress = folder, config, device, progress
        self.loop = PretrainLoop(sam, config, device)
        self.scores: dict[str, float] = {}
        self._pending: list[PretrainStep] = []
        self._saved_at = time.monotonic()

    def restore(self) -> None:
        """Go back to the saved state."""
        facts, saved = self.folder.read_facts()
        try:
            self.loop.step, self.scores = int(facts["step"]), dict(facts["scores"])
            self._pending = [PretrainStep(*one) for one in facts["pending"]]
        except (ValueError, KeyError, TypeError) as error:
            raise damaged_state(saved) from error
        load_tensors(self.loop.pupil, self.loop.optimizer, saved)
        self.folder.drop_metrics_after(self.loop.step)

    def go(self) -> None:
        """Train to the end, or to a signal."""
        loop, total = self.loop, self.config.steps
        with StopFlag() as stop, Logs(self.folder, self.config, loop.step, self.progress) as logs:
            self.progress.start("pre-training", total - loop.step)
            for report in loop.steps():
                self._pending.append(report)
                pace = self.config.batch_pictures / report.seconds
                self.progress.advance(f"loss {report.loss:.3f} {pace:.3g} pictures/s")
                is_due = report.step % self.config.validate_every == 0 or report.step == total
                row = self._flush() if is_due or report.step % _LOG_STEPS == 0 else {}
                logs.write({**row, **self._validate()} if is_due else row)
                if is_due or stop.signal_number is not None or time.monotonic() - self._saved_at > _SAVE_SECONDS:
                    self.save_state()
                if stop.signal_number is not None and report.step < total:
                    raise StoppedError(
                        stop.signal_number,
                        f"stopped after step {report.step} of {total}, the state is in {self.folder.last}",
                        fix="go on with --resume",
                    )

    def save_state(self) -> None:
        """Write all that it takes to go on from here."""
        facts = {"step": self.loop.step, "scores": self.scores, "pending": self._pending}
        pupil = self.loop.pupil
        self.folder.put_state(pupil.state_dict(), optimizer_moments(pupil, self.loop.optimizer), facts)
        self._saved_at = time.monotonic()

    def _flush(self) -> dict[str, float | int]:
        """Return the mean of the steps since the last row."""
        reports, self._pending = self._pending, []
        seconds = sum(one.seconds for one in reports) / len(reports)
        return {
            "step": self.loop.step,
            "loss": sum(one.loss for one in reports) / len(reports),
            "learning_rate": reports[-1].learning_rate,
            "seconds_per_step": seconds,
            "pictures_per_second": self.config.batch_pictures / seconds,
        }

    def _validate(self) -> dict[str, float]:
        """Score the model, and write it."""
        self.scores = score_prompts(self.loop.sam, self.config, self.device)
        said = ", ".join(f"{name} {value:.4f}" for name, value in self.scores.items())
        self.progress.say(f"step {self.loop.step}: {said}")
        facts: dict[str, Any] = {
            "made_of": "pictures made by formula", "steps": self.loop.step, "seed": self.config.seed, **self.scores
        }  # fmt: skip
        write_tensors(self.folder.model, self.loop.sam.state_dict(), {_NOTES: json.dumps(facts)})
        return self.scores
