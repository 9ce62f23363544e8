import pytest
from fault_server import Listener

from masam import progress
from masam.progress import MB, Megabytes, Progress, Silent


def test_silent_is_a_progress():
    assert isinstance(Silent(), Progress)
    assert isinstance(Listener(), Progress)


@pytest.mark.parametrize(
    ("size", "total"), [(1, 1), (MB - 1, 1), (MB, 1), (2 * MB - 1, 1), (2 * MB, 2), (375_042_383, 375)]
)
def test_the_last_byte_completes_the_last_step(size, total):
    listener = Listener()
    meter = Megabytes(listener, "weights", size)
    assert listener.tasks == [("weights", total)]
    meter.reach(size - 1)
    assert len(listener.steps) == total - 1
    meter.reach(size)
    meter.reach(size)
    assert len(listener.steps) == total


def test_earlier_bytes_do_not_count_for_the_speed(monkeypatch):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    listener = Listener()
    meter = Megabytes(listener, "weights", 375 * MB, done=123 * MB)
    assert listener.steps == ["MB"] * 123
    now = 102.0
    meter.reach(131_400_000)
    assert listener.steps[123:] == ["MB, 4.2 MB/s"] * 8


def test_an_unknown_size_is_counted():
    listener = Listener()
    Megabytes(listener, "weights", None).reach(3_900_000)
    assert listener.tasks == [("weights", 0)]
    assert len(listener.steps) == 3
