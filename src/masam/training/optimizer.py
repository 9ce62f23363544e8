"""AdamW that skips steps with non-finite loss or gradients."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from masam.errors import DivergedError
from masam.training.sharding import gather_full_tensor


class GuardedAdamW:
    """AdamW with a learning rate per step, gradient clipping, and no update from non-finite values.

    Args:
        parameters: Parameters of the model; frozen ones are ignored.
        learning_rate: Largest learning rate.
        weight_decay: Weight decay of every parameter.
        clip_norm: Largest norm of the gradient; None for no limit.
        max_bad_steps: Consecutive skipped steps after which training has diverged.
        scaler: Loss scaler for fp16; None for other precisions.

    Attributes:
        adamw: The optimiser.
        scaler: The loss scaler, disabled where none is needed.
        skipped: Consecutive steps that were skipped, up to the last step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        weight_decay: float,
        clip_norm: float | None,
        max_bad_steps: int,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.adamw = torch.optim.AdamW(self._parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
        self.scaler = scaler or torch.amp.GradScaler(enabled=False)
        self._clip_norm, self._max_bad_steps = clip_norm, max_bad_steps
        self.skipped = 0

    def step(self, learning_rate: float, *, loss_is_finite: bool) -> bool:
        """Update the parameters and clear the gradients.

        Args:
            learning_rate: Learning rate of this step.
            loss_is_finite: Whether the loss is finite; if not, the update is skipped.

        Returns:
            Whether the parameters were updated.
        """
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.scaler.unscale_(self.adamw)
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        is_finite = loss_is_finite and bool(gather_full_tensor(norm).isfinite())
        if is_finite:
            if self._clip_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self._parameters, self._clip_norm, norm)
            self.scaler.step(self.adamw)
        self.skipped = 0 if is_finite else self.skipped + 1
        self.scaler.update()
        self.adamw.zero_grad(set_to_none=True)
        return is_finite

    def require_not_diverged(self, step: int, samples: str = "") -> None:
        """Refuse to continue after too many skipped steps.

        Raises:
            DivergedError: The limit of consecutive skipped steps is reached.
        """
        if self.skipped >= self._max_bad_steps:
            steps = "1 step" if self.skipped == 1 else f"{self.skipped} steps"
            raise DivergedError(
                f"loss or gradients were not finite for {steps} in a row, the last at step {step}{samples}",
                fix="lower learning_rate, or use precision float32 or bf16",
            )
