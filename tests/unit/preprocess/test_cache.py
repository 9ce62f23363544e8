import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from masam import atomic
from masam.errors import InputError, ResourceError
from masam.labels import LabelScheme
from masam.preprocess import cache
from masam.preprocess.cache import prepare_cases
from masam.preprocess.intensity import Percentiles, Window
from masam.preprocess.pipeline import Preprocessing
from masam.volume import Geometry, Volume

SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 1, "tumour": 5, "ignore": 9})
PREPROCESSING = Preprocessing("axial", Window(low=-200, high=250), 32)
GEOMETRY = Geometry(np.diag([-1.0, 1.0, 4.0, 1.0]))


@dataclass(frozen=True)
class Case:
    id: str
    images: tuple[Path, ...]
    label: Path | None = None


def write_case(folder, name="liver_1", seed=0):
    path = folder / f"{name}.bin"
    path.write_bytes(seed.to_bytes(4, "little"))
    return Case(name, (path,))


def load(case):
    generator = np.random.default_rng(int.from_bytes(case.images[0].read_bytes(), "little"))
    image = generator.integers(-300, 350, (24, 20, 7)).astype(np.int16)
    labels = generator.choice(np.array([0, 1, 5, 9], np.uint8), (24, 20, 7))
    return Volume(image, GEOMETRY), Volume(labels, GEOMETRY)


def prepare(cases, root, preprocessing=PREPROCESSING, load=load, **options):
    return prepare_cases(cases, load, preprocessing, SCHEME, root, **options)


def test_windows_are_what_the_pipeline_makes(tmp_path):
    case = write_case(tmp_path)
    seen = []
    (prepared,) = prepare([case], tmp_path / "cache", progress=seen.append)
    image, labels = load(case)
    volume = PREPROCESSING.prepare(image)
    reference = volume.labels(labels)
    slices = (0, 0, 1, 6, 3)
    window, channels = prepared.read_window(slices)
    assert (window.dtype, channels.dtype) == (np.float32, np.int8)
    expected = np.stack([volume.slice(i) for i in slices])
    assert np.abs(window - expected).max() <= 0.5 / 65535 + 1e-7
    assert np.array_equal(channels, np.stack([SCHEME.to_channels(reference.slice(i)) for i in slices]))
    assert set(np.unique(channels)) == {-100, 0, 1, 2}
    assert (prepared.case_id, prepared.depth, prepared.image_size) == ("liver_1", 7, 32)
    assert seen == [case]


def test_sixteen_bit_levels_round_less_than_half_precision():
    values = np.linspace(0, 1, 100_001, dtype=np.float32)
    stored = np.rint(values * np.float32(65535)).astype(np.uint16).astype(np.float32) / np.float32(65535)
    assert np.abs(stored - values).max() < 7.8e-6
    assert np.abs(values.astype(np.float16).astype(np.float32) - values).max() > 2.4e-4


def test_a_second_run_reads_and_a_change_of_anything_prepares_again(tmp_path):
    case, root = write_case(tmp_path), tmp_path / "cache"
    (first,) = prepare([case], root)
    assert prepare([case], root, load=lambda case: pytest.fail("it is in the cache")) == [first]
    for other in (
        replace(PREPROCESSING, image_size=16),
        replace(PREPROCESSING, intensity=Percentiles()),
        replace(PREPROCESSING, slice_axis="coronal"),
    ):
        assert prepare([case], root, other)[0].folder != first.folder
    assert prepare([case], root, load_options="nan=0")[0].folder != first.folder
    time_before = case.images[0].stat().st_mtime_ns
    write_case(tmp_path, seed=1)
    os.utime(case.images[0], ns=(time_before, time_before))
    assert prepare([case], root)[0].folder != first.folder


def slow_load(case):
    time.sleep(0.02)
    return load(case)


def prepare_all(folder, root, barrier):
    barrier.wait()
    prepare([Case(p.stem, (p,)) for p in sorted(folder.glob("*.bin"))], root, load=slow_load)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.npy")}


def test_processes_at_once_end_with_one_complete_cache(tmp_path):
    cases = [write_case(tmp_path, f"case_{i}", seed=i) for i in range(4)]
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    workers = [context.Process(target=prepare_all, args=(tmp_path, tmp_path / "shared", barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    prepare(cases, tmp_path / "alone")
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == sorted(
        path.name for path in (tmp_path / "alone").iterdir()
    )


def write_half(folder, root):
    write = cache._write_npy

    def stop_half_way(path, *rest):
        if path.name == "labels.npy":
            path.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, *rest)

    cache._write_npy = stop_half_way
    prepare([Case(p.stem, (p,)) for p in sorted(folder.glob("*.bin"))], root)


def test_an_incomplete_case_is_never_used_and_removed_by_the_next_run(tmp_path):
    case, root = write_case(tmp_path), tmp_path / "cache"
    worker = multiprocessing.get_context("fork").Process(target=write_half, args=(tmp_path, root))
    worker.start()
    worker.join(30)
    assert worker.exitcode == -signal.SIGKILL
    assert [path.name.startswith(".masam-tmp-") for path in root.iterdir()] == [True]
    (prepared,) = prepare([case], root)
    assert list(root.iterdir()) == [prepared.folder]
    prepare([case], tmp_path / "clean")
    assert contents(root) == contents(tmp_path / "clean")


def test_temporary_folders_are_removed_if_stale(tmp_path):
    root = tmp_path / "cache"
    old, young = root / ".masam-tmp-00000000-1-00000000", root / ".masam-tmp-00000000-2-00000000"
    ours = root / atomic._temporary_name(Path())
    for folder in (old, young, ours):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    prepare([], root)
    assert set(root.iterdir()) == {young, ours}


def test_an_interrupted_or_failed_case_leaves_nothing(tmp_path, monkeypatch):
    case, root = write_case(tmp_path), tmp_path / "cache"

    def full_disk(path, *rest):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_write_npy", full_disk)
    with pytest.raises(ResourceError, match=r"No space left on device.*; free disk space"):
        prepare([case], root)
    assert list(root.iterdir()) == []


def test_refused_cases_are_named(tmp_path):
    case, root = write_case(tmp_path), tmp_path / "cache"

    def unknown_label(case):
        image, labels = load(case)
        return image, labels.with_array(np.full(labels.shape, 3, np.uint8))

    def shifted(case):
        image, labels = load(case)
        return image, Volume(labels.array, Geometry(np.eye(4)))

    with pytest.raises(InputError, match=r"^liver_1: label value 3 is not in dataset.json"):
        prepare([case], root, load=unknown_label)
    with pytest.raises(InputError, match=r"^liver_1: the affines of labels and image differ"):
        prepare([case], root, load=shifted)
    with pytest.raises(InputError, match="liver_1: expected labels to train on"):
        prepare([case], root, load=lambda case: (load(case)[0], None))
    with pytest.raises(InputError, match=r"gone.bin: expected a file of case liver_2, found none"):
        prepare([Case("liver_2", (tmp_path / "gone.bin",))], root)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("name", ["images.npy", "labels.npy"])
@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"\x93NUMPY" + data[6:40]])
def test_damaged_files_are_refused(tmp_path, name, damage):
    case, root = write_case(tmp_path), tmp_path / "cache"
    (prepared,) = prepare([case], root)
    path = prepared.folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name}: the cached case is damaged .*; delete its folder"):
        prepare([case], root)


def test_pickled_objects_are_never_loaded(tmp_path):
    case, root = write_case(tmp_path), tmp_path / "cache"
    (prepared,) = prepare([case], root)
    np.save(prepared.folder / "images.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="is damaged"):
        prepared.read_window([0])


def test_a_truncated_file_is_an_error_and_not_a_crash(tmp_path):
    (prepared,) = prepare([write_case(tmp_path)], tmp_path / "cache")
    path = prepared.folder / "images.npy"
    os.truncate(path, path.stat().st_size - 2 * 32 * 32 * 2 - 1)
    assert prepared.read_window([0, 3])[0].shape == (2, 1, 32, 32)
    with pytest.raises(InputError, match=r"images.npy: the cached case is damaged \(it ends before slice 4 does\)"):
        prepared.read_window([3, 4])


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("images.npy", np.zeros((7, 1, 32, 16), np.uint16), r"shape \(7, 1, 32, 16\) of uint16"),
        ("images.npy", np.zeros((7, 1, 32, 32), np.float32), r"shape \(7, 1, 32, 32\) of float32"),
        ("images.npy", np.asfortranarray(np.zeros((7, 1, 32, 32), np.uint16)), "Fortran order"),
        ("labels.npy", np.zeros((7, 32, 32), np.int64), r"shape \(7, 32, 32\) of int64"),
    ],
)
def test_arrays_of_other_shape_or_type_are_refused(tmp_path, name, array, words):
    (prepared,) = prepare([write_case(tmp_path)], tmp_path / "cache")
    np.save(prepared.folder / name, array)
    with pytest.raises(InputError, match=rf"{name}: the cached case is damaged \(.*{words}.*\); delete its folder$"):
        prepared.read_window([0])


@pytest.mark.parametrize("slices", [[], [-1], [7]])
def test_slices_outside_are_refused(tmp_path, slices):
    (prepared,) = prepare([write_case(tmp_path)], tmp_path / "cache")
    with pytest.raises(InputError, match="liver_1: expected slices from 0 to 6"):
        prepared.read_window(slices)


def test_cases_of_the_readers_are_accepted(tmp_path):
    from masam.cases.folder import Case as NiftiCase

    case = write_case(tmp_path)
    nifti = NiftiCase("liver_1", case.images, None)
    assert prepare([nifti], tmp_path / "cache") == prepare([case], tmp_path / "cache")
