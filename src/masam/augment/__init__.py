"""Random augmentation of training windows; all slices and channels of a window get the same transform."""

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
