import re
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs
import pytest
import torch

import masam
from masam.errors import ConfigError, InputError
from masam.export.identify import identify
from masam.io.gate import sha256
from masam.model.sizes import SIZES
from masam.weights import published
from masam.weights.published import PUBLISHED, cache_folder, find_published, require_cached, resolve, state
from masam.weights.receipt import write_receipt

SAM_B = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
OTHER = "ab" * 32


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MASAM_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    cache_folder().mkdir(parents=True)
    return cache_folder()


def put(name, sha256=OTHER):
    path = cache_folder() / PUBLISHED[name].filename
    path.write_bytes(b"weights")
    write_receipt(path, PUBLISHED[name].url, sha256)
    return path


def assert_equal_states(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert set(first) == set(second)
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_registry_is_sound():
    assert list(PUBLISHED) == [
        "masam-vit-t",
        *("sam-vit-b", "sam-vit-l", "sam-vit-h", "sam-vit-b-hf", "sam-vit-l-hf", "sam-vit-h-hf", "medsam-vit-b"),
    ]
    for name, entry in PUBLISHED.items():
        assert entry.name == name
        assert entry.size in SIZES
        assert entry.licence == "Apache-2.0"
        if entry.url is None:  # in the package
            assert entry.sha256
            assert (Path(__file__).parents[3] / entry.page).is_file()
            continue
        assert urlsplit(entry.url).scheme == urlsplit(entry.page).scheme == "https"
        assert Path(entry.filename).name == entry.filename
        assert entry.sha256 is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
        # Without a pinned hash, the host must publish one.
        assert entry.sha256 or urlsplit(entry.url).hostname == "huggingface.co"
    assert len({entry.filename for entry in PUBLISHED.values()}) == len(PUBLISHED)
    assert len({entry.url for entry in PUBLISHED.values()}) == len(PUBLISHED)


def test_display_of_file_sizes():
    assert [PUBLISHED[name].file_size for name in ("sam-vit-b", "sam-vit-l", "sam-vit-h")] == [
        *("375 MB", "1.25 GB", "2.56 GB")
    ]
    assert PUBLISHED["sam-vit-h"].bytes == 2564550879


def test_an_unknown_name_suggests_the_nearest():
    assert find_published("sam-vit-b").sha256 == SAM_B
    with pytest.raises(ConfigError, match=r"expected one of masam-.*, got 'sam-vitb'; did you mean 'sam-vit-b'\?"):
        find_published("sam-vitb")
    with pytest.raises(ConfigError, match="got 'x'; see masam weights list"):
        find_published("x")


def test_location_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value, folder in (("/data/masam", Path("/data/masam")), ("here", tmp_path / "here")):
        monkeypatch.setenv("MASAM_HOME", value)
        assert cache_folder() == folder / "weights"
    user = platformdirs.user_cache_path("masam", appauthor=False) / "weights"
    monkeypatch.setenv("MASAM_HOME", "")
    assert cache_folder() == user
    monkeypatch.delenv("MASAM_HOME")
    assert cache_folder() == user


def test_states_of_weights(home):
    path = home / "sam_vit_b_01ec64.pth"
    assert (state("sam-vit-b"), PUBLISHED["sam-vit-b"].verified()) == ("no", None)
    path.with_name("sam_vit_b_01ec64.pth.part").write_bytes(b"wei")
    assert (state("sam-vit-b"), PUBLISHED["sam-vit-b"].verified()) == ("incomplete", None)
    path.write_bytes(b"weights")
    assert (state("sam-vit-b"), PUBLISHED["sam-vit-b"].verified()) == ("unchecked", None)
    write_receipt(path, "", SAM_B)
    assert (state("sam-vit-b"), PUBLISHED["sam-vit-b"].verified()) == ("yes", SAM_B)
    path.write_bytes(b"weigh")
    assert (state("sam-vit-b"), PUBLISHED["sam-vit-b"].verified()) == ("unchecked", None)
    for look in (state, require_cached):
        with pytest.raises(ConfigError, match="got 'sam'"):
            look("sam")


def test_names_are_resolved_and_paths_unchanged(home):
    for words in ("x.pth", "sam-vit-x", "./sam-vit-b", "runs/sam-vit-b", home / "x"):
        assert resolve(words) == Path(words)
    message = r"^sam-vit-b is not on this machine; run masam weights get sam-vit-b \(about 375 MB\)$"
    with pytest.raises(InputError, match=message):
        resolve("sam-vit-b")
    Path("sam-vit-b").write_text("a file of that name in the working folder")
    with pytest.raises(InputError, match=message):
        resolve("sam-vit-b")
    (home / "sam_vit_b_01ec64.pth").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"pth: sam-vit-b is present but not verified; run masam weights verify sam-"):
        resolve("sam-vit-b")
    path = put("sam-vit-b")
    assert resolve("sam-vit-b") == resolve(Path("sam-vit-b")) == require_cached("sam-vit-b") == path
    assert resolve("./sam-vit-b") == Path("sam-vit-b")


def test_weights_are_found_by_their_hash(home):
    assert published.published_by_sha256(SAM_B) is PUBLISHED["sam-vit-b"]
    assert published.published_by_sha256(OTHER) is None
    assert published.find_cached_by_sha256(SAM_B) is None
    path = put("sam-vit-l-hf")
    assert published.published_by_sha256(OTHER) is PUBLISHED["sam-vit-l-hf"]
    assert published.find_cached_by_sha256(OTHER) == path
    assert published.find_cached_by_sha256(SAM_B) is None
    path.unlink()
    assert published.published_by_sha256(OTHER) is None
    assert published.find_cached_by_sha256(OTHER) is None


def test_the_package_has_its_own_sam(home):
    entry = PUBLISHED["masam-vit-t"]
    assert state("masam-vit-t") == "yes"
    assert entry.bytes <= 25_000_000
    assert sha256(entry.path) == entry.sha256
    described = identify(resolve("masam-vit-t"))
    assert (described["kind"], described["size"], described["image_size"]) == ("SAM weights", "vit_t", 256)
    assert list(home.iterdir()) == []


def test_the_base_of_a_model_is_found_in_the_package(home, tmp_path):
    model = masam.build_masam("auto", 2, 64, 3, 2, adapter_channels=4, sam_checkpoint="masam-vit-t")
    masam.save(tmp_path / "model.safetensors", model)
    assert (tmp_path / "model.safetensors").stat().st_size < PUBLISHED["masam-vit-t"].bytes
    assert_equal_states(masam.load(tmp_path / "model.safetensors"), model)
