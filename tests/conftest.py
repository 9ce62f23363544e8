"""Tests check annotations of tensor shapes at run time, with jaxtyping and beartype.

mypy checks the other annotations. Checking those at run time too would take a quarter of the time of the suite.
"""

import signal
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

SOURCE = Path(__file__).parent.parent / "src"
WITH_SHAPES = [
    ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    for path in sorted((SOURCE / "masam").rglob("*.py"))
    if any(word in path.read_text("utf-8") for word in ("jaxtyping", "masam.axes"))
]
"""Modules with annotations of shapes."""

install_import_hook(WITH_SHAPES, "beartype.beartype")

# A shell without job control starts what it puts in the background with Ctrl-C ignored, and Python leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """The exports of one model; see ``exported.Exports``."""
    from exported import Exports

    return Exports(tmp_path_factory.mktemp("exports"))
