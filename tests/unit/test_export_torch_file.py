import errno
from pathlib import Path

import pytest
import torch

from masam.export.torch_file import write_archive


def test_the_archive_is_what_was_saved(tmp_path):
    state = {"w": torch.arange(5.0)}
    write_archive(tmp_path / "model.pt", lambda archive: torch.save(state, archive))
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["w"], state["w"])


def test_a_full_disk_is_said_by_its_own_name(tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left on device"):
        write_archive(tmp_path / "model.pt", lambda archive: torch.save({}, archive))
