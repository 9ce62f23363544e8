import sys

import pytest

from masam.errors import ResourceError
from masam.io.packages import require_package


def test_a_module_that_is_there():
    assert require_package("json.decoder") is sys.modules["json.decoder"]


@pytest.mark.parametrize("name", ["onnxruntime", "monai.bundle"])
def test_a_package_that_is_missing_is_named_with_the_command(monkeypatch, name):
    package = name.split(".")[0]
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"^this export requires {package}, which is not installed \(.*\); pip install 'masam\[export\]'$"
    with pytest.raises(ResourceError, match=message):
        require_package(name)
