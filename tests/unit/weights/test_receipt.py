import json
import re

import pytest

from masam.errors import InputError, ResourceError
from masam.weights.receipt import read_receipt, receipt_path, write_receipt

HASH = "ab" * 32


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"weights")
    write_receipt(tmp_path / "a.pth", "https://example.org/a.pth", HASH)
    return tmp_path / "a.pth"


def test_receipt_round_trip(file):
    receipt = read_receipt(file)
    assert (receipt.url, receipt.bytes, receipt.sha256) == ("https://example.org/a.pth", 7, HASH)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", receipt.date)
    assert receipt_path(file).name == "a.pth.json"
    assert list(json.loads(receipt_path(file).read_text())) == ["url", "bytes", "sha256", "date"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"url": "x"}', '{"url": 1, "bytes": 7, "sha256": "", "date": ""}', "[" * 100_000, "\0"],
)
def test_an_unreadable_receipt_counts_as_missing(file, text):
    receipt_path(file).write_text(text)
    assert read_receipt(file) is None


def test_a_missing_or_changed_file_has_no_receipt(file):
    file.write_bytes(b"weights and more")
    assert read_receipt(file) is None
    file.write_bytes(b"WEIGHTS")
    assert read_receipt(file).sha256 == HASH, "the content is not looked at"
    file.unlink()
    assert read_receipt(file) is None
    file.mkdir()
    assert read_receipt(file) is None
    with pytest.raises(InputError, match=r"b\.pth: expected a file, got none"):
        write_receipt(file.with_name("b.pth"), "", HASH)


def test_a_folder_in_place_of_the_receipt(file):
    receipt_path(file).unlink()
    receipt_path(file).mkdir()
    assert read_receipt(file) is None
    with pytest.raises(ResourceError, match=r"a\.pth\.json: the path is a folder or a device"):
        write_receipt(file, "", HASH)
