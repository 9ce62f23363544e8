"""Random variation of training samples; every slice and every channel of a window is varied alike."""

from masam.augment.prompts import WindowPrompts
from masam.augment.settings import AugmentSettings
from masam.augment.variation import Variation, draw_variation
from masam.augment.window import Augmented, apply_variation, augment, augment_window

__all__ = [
    "AugmentSettings",
    "Augmented",
    "Variation",
    "WindowPrompts",
    "apply_variation",
    "augment",
    "augment_window",
    "draw_variation",
]
