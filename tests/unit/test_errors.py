import pytest

from masam import errors


@pytest.mark.parametrize(
    ("kind", "name", "code"),
    [
        (errors.ConfigError, "CONFIG", 2),
        (errors.InputError, "INPUT", 3),
        (errors.BatchError, "BATCH", 4),
        (errors.ResourceError, "RESOURCE", 5),
        (errors.ModelError, "MODEL", 6),
        (errors.DivergedError, "DIVERGED", 7),
    ],
)
def test_each_kind_has_its_line_and_exit_code(kind, name, code):
    error = kind("expected 3 axes, got 4", where="liver.nii.gz", fix="split the series")
    assert error.line() == f"error[{name}]: liver.nii.gz: expected 3 axes, got 4; split the series"
    assert error.exit_code == code


def test_a_message_is_one_line_even_if_a_file_name_is_not():
    assert str(errors.InputError("cut\noff", where="a\nb.nii")) == "a b.nii: cut off"


def test_where_and_fix_may_be_left_out():
    assert str(errors.ConfigError("no window")) == "no window"
