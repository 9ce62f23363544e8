"""Every test runs with masam's annotations checked at run time: shapes by jaxtyping, types by beartype."""

import signal

import pytest
from jaxtyping import install_import_hook

install_import_hook("masam", "beartype.beartype")

# A shell without job control starts what it puts in the background with Ctrl-C ignored, and Python leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """The exports of one model; see ``exported.Exports``."""
    from exported import Exports

    return Exports(tmp_path_factory.mktemp("exports"))
