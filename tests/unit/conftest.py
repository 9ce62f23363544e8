import pytest
import torch
from tiny import TINY, randomise

from masam.model.sam import Sam
from masam.model.sizes import SIZES


@pytest.fixture
def sam_file(tmp_path, monkeypatch):
    """A SAM of the smallest size, which is made yet smaller."""
    monkeypatch.setitem(SIZES, "vit_t", TINY)
    path = tmp_path / "sam_vit_t.pth"
    torch.save(randomise(Sam(TINY, 64), seed=4).state_dict(), path)
    return path
