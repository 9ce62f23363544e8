from __future__ import annotations

import pytest

from masam.errors import InputError
from masam.runs.metrics import read_columns, read_rows, write_rows

ROWS = [{"step": "2", "loss": "0.5"}, {"step": "4", "loss": "0.25", "dice, mean": "0.75"}]


def test_rows_come_back_with_the_columns_of_all(tmp_path):
    path = tmp_path / "metrics.csv"
    assert (read_rows(path), read_columns(path)) == ([], {})
    write_rows(path, ROWS)
    assert path.read_text() == 'step,loss,"dice, mean"\n2,0.5,\n4,0.25,0.75\n'
    assert read_rows(path) == [{**ROWS[0], "dice, mean": ""}, ROWS[1]]
    assert read_columns(path) == {"step": [2, 4], "loss": [0.5, 0.25], "dice, mean": [None, 0.75]}


def test_a_file_without_rows(tmp_path):
    write_rows(tmp_path / "metrics.csv", [])
    assert read_rows(tmp_path / "metrics.csv") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,loss\n2,0.5\nx,0.5\n", "row 2 is damaged: expected the columns of the header, with an integer as step"),
        ("loss\n0.5\n", "row 1 is damaged"),
        ("step,loss\n2,0.5,9\n", "row 1 is damaged"),
        ("", "the file is empty"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(InputError, match=rf"metrics\.csv: {message}"):
        read_rows(tmp_path / "metrics.csv")


def test_a_value_that_is_no_number_and_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n2,small\n")
    with pytest.raises(InputError, match="could not convert string to float: 'small'"):
        read_columns(path)
    path.write_bytes(b"step\n\xff\n")
    with pytest.raises(InputError, match=r"cannot be read \(UnicodeDecodeError"):
        read_rows(path)
