"""Shared by the tests of exports: a model with a plan, its exports, and how to run them without masam."""

import contextlib
import io
import json
import subprocess
import sys
from functools import cached_property

import numpy as np
import pytest
import torch
from masam_cli import Result
from tiny import LABELS, SPEC, random_model, random_windows, without_type_checks

from masam.cli import main
from masam.export import onnx_file, program
from masam.preprocess.intensity import Window
from masam.preprocess.plan import Plan
from masam.weights import model_file
from masam.weights.card import ModelCard

PLAN = Plan(
    name="tiny", modality="CT", slice_axis="axial", intensity=Window(low=-60, high=240), window=3, image_size=32,
    labels=LABELS,
)  # fmt: skip
CONVERT = onnx_file._convert  # tests replace it by the result that they share
SHAPES = ((1, 3), (4, 3), (2, 5))
"""Windows and slices that exports are run with; they are traced with 2 and 3."""

# What a user without masam writes: what comes before, and what maps windows to outputs; for `run_fresh`.
IN_PYTORCH = (
    "import torch\nfiles = {'masam.json': ''}\n"
    "module = torch.export.load(sys.argv[1], extra_files=files).module()\nfacts = json.loads(files['masam.json'])",
    "[output.detach() for output in module(torch.from_numpy(windows))]",
)
IN_ONNXRUNTIME = (
    "import onnxruntime\n"
    "session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
    "facts = json.loads(session.get_modelmeta().custom_metadata_map['masam'])",
    "session.run(['logits', 'iou'], {'windows': windows})",
)


def model_with_plan(spec=SPEC, scale=0.3):
    model = random_model(spec, scale=scale)
    model.card = ModelCard(PLAN)
    return model


class Exports:
    """The exports of one model, each written by the command when it is first used.

    The model is traced once for both formats, and converted to ONNX once.
    """

    def __init__(self, folder):
        self.folder, self.model, self.results = folder, model_with_plan(), {}
        model_file.save(folder / "model.safetensors", self.model)

    @cached_property
    def traced(self):
        with without_type_checks():
            return program.trace(self.model)

    @cached_property
    def graph(self):
        """The model as torch.onnx exports it."""
        with without_type_checks(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnx_file, "trace", lambda _: self.traced)
            return CONVERT(self.model)

    @cached_property
    def torch(self):
        """A ``.pt2`` file."""
        return self._export("torch", "torch/model.pt2", (program, "trace", self.traced))

    @cached_property
    def onnx(self):
        """An ``.onnx`` file."""
        return self._export("onnx", "onnx/model.onnx", (onnx_file, "_convert", self.graph))

    @cached_property
    def bundle(self):
        """The folder of a MONAI bundle."""
        return self._export("monai-bundle", "bundle/tiny")

    def _export(self, name, path, shared=None):
        out = self.folder / path
        words = ["export", self.folder / "model.safetensors", "--format", name, "--out", out, "--json", "--quiet"]
        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.MonkeyPatch.context() as patch,
            without_type_checks(),
        ):
            if shared:
                patch.setattr(*shared[:2], lambda _: shared[2])
            code = main([str(word) for word in words])
        self.results[name] = Result(code, stdout.getvalue(), stderr.getvalue())
        assert code == 0, stderr.getvalue()
        return out


def run_fresh(code, tmp_path, *arguments, shapes=SHAPES):
    """Run code that maps ``windows`` to ``outputs``, without masam; return windows and outputs by shape.

    The code finds the windows under that name, its arguments in ``sys.argv``, and prints what ``facts`` holds.
    """
    inputs = {str(n): random_windows(*shape, seed=n).numpy() for n, shape in enumerate(shapes)}
    np.savez(tmp_path / "inputs.npz", **inputs)
    before, inside = code
    script = (
        "import json, sys\nimport numpy as np\nfolder = sys.argv.pop(1)\n"
        f"{before}\nresults = {{}}\n"
        "for n, windows in np.load(f'{folder}/inputs.npz').items():\n"
        f"    outputs = {inside}\n"
        "    results |= {f'{n}-{k}': np.asarray(output) for k, output in enumerate(outputs)}\n"
        "np.savez(f'{folder}/results.npz', **results)\n"
        "assert 'masam' not in sys.modules\nprint(json.dumps(facts))\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, str(tmp_path), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    results = np.load(tmp_path / "results.npz")
    pairs = [
        (torch.from_numpy(windows), tuple(torch.from_numpy(results[f"{n}-{k}"]) for k in range(2)))
        for n, windows in inputs.items()
    ]
    return pairs, json.loads(done.stdout)


def assert_same_outputs(model, pairs, tolerance):
    assert pairs
    for windows, outputs in pairs:
        with torch.no_grad():
            expected = model(windows)
        for got, wanted in zip(outputs, expected, strict=True):
            assert got.shape == wanted.shape
            assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()
