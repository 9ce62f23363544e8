"""ONNX files, for runtimes other than PyTorch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from masam import atomic
from masam.export.agreement import Exported, Run, require_agreement
from masam.export.program import DESCRIPTION_KEY, INPUT, OUTPUTS, describe, least_slices, trace
from masam.io.packages import require_package
from masam.model.masam import Masam

OPSET = 20
"""ONNX operator set; the first with GELU, which is one node per block instead of five."""

EXTERNAL_ABOVE_BYTES = 1 << 30
"""Size above which weights are stored in a separate file. ONNX is limited to 2 GiB; vit_h has 2.9 GB of weights."""


def write_onnx(model: Masam, path: Path) -> Exported:
    """Write a model as ``.onnx``, check the file, and compare its outputs with the model.

    Large weights are stored in ``NAME.onnx.data`` beside it; both files are required.
    """
    onnx, _, _ = (require_package(name) for name in ("onnx", "onnxscript", "onnxruntime"))
    graph = _convert(model)

    def write(file: Path) -> Exported:
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        graph.save(file, external_data=size > EXTERNAL_ABOVE_BYTES)
        onnx.checker.check_model(str(file), full_check=True)
        difference = require_agreement(model, _runner(file), where=path)
        return Exported(path, sum(written.stat().st_size for written in file.parent.iterdir()), difference)

    return atomic.write_aside(path, write)


def _convert(model: Masam) -> Any:
    program = trace(model)
    names = {0: "B"} | ({1: "S"} if model.spec.window >= least_slices(model.spec) else {})
    with _quiet():
        graph: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: names},
        )
    graph.model.metadata_props[DESCRIPTION_KEY] = describe(model)
    return graph


def _runner(file: Path) -> Run:
    session = require_package("onnxruntime").InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(windows: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(output) for output in session.run(list(OUTPUTS), {INPUT: windows.numpy()}))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the messages of PyTorch's exporter about a deprecated class and about missing torchvision."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
