"""masam: Segment Anything adapted to medical volumes and video (MA-SAM, arXiv 2309.08842)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masam.evaluation import evaluate
    from masam.predict import Predictor
    from masam.predict_picture import SamPredictor
    from masam.prompt_evaluation import evaluate_prompts
    from masam.prompts import Box3D, Click, MaskOnSlice
    from masam.reference import load_reference, save_reference
    from masam.volume import Geometry, Volume
    from masam.weights import build_masam, load, save

__version__ = "0.1.0"

__all__ = [
    "Box3D",
    "Click",
    "Geometry",
    "MaskOnSlice",
    "Predictor",
    "SamPredictor",
    "Volume",
    "build_masam",
    "evaluate",
    "evaluate_prompts",
    "load",
    "load_reference",
    "save",
    "save_reference",
]

_HOMES = {
    "Box3D": "masam.prompts",
    "Click": "masam.prompts",
    "Geometry": "masam.volume",
    "MaskOnSlice": "masam.prompts",
    "Predictor": "masam.predict",
    "SamPredictor": "masam.predict_picture",
    "Volume": "masam.volume",
    "build_masam": "masam.weights",
    "evaluate": "masam.evaluation",
    "evaluate_prompts": "masam.prompt_evaluation",
    "load": "masam.weights",
    "load_reference": "masam.reference",
    "save": "masam.weights",
    "save_reference": "masam.reference",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import masam`` and ``masam --help`` do without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'masam' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
