"""masam: Segment Anything adapted to medical volumes and video (MA-SAM, arXiv 2309.08842)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masam.evaluation import evaluate
    from masam.evaluation.prompted import evaluate_prompts
    from masam.predict.predictor import Predictor
    from masam.predict.sam import SamPredictor
    from masam.prompts import Box3D, Click, MaskOnSlice
    from masam.volume import Geometry, Volume
    from masam.weights.model_file import build_masam, load, save
    from masam.weights.official import load_reference, save_reference

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
    "Predictor": "masam.predict.predictor",
    "SamPredictor": "masam.predict.sam",
    "Volume": "masam.volume",
    "build_masam": "masam.weights.model_file",
    "evaluate": "masam.evaluation",
    "evaluate_prompts": "masam.evaluation.prompted",
    "load": "masam.weights.model_file",
    "load_reference": "masam.weights.official",
    "save": "masam.weights.model_file",
    "save_reference": "masam.weights.official",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: ``import masam`` and ``masam --help`` do without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'masam' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
