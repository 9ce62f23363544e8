import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from masam import atomic
from masam.atomic import put_in_place, remove_stale, write_aside, write_bytes, write_text, write_with
from masam.errors import InputError, ResourceError


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_bytes_and_text_are_written_and_nothing_else_is_left(tmp_path):
    write_bytes(tmp_path / "new" / "folder" / "a.bin", b"\x00\xff")
    write_text(tmp_path / "b.txt", "Größe\n")
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b.txt").read_bytes() == "Größe\n".encode()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.bin", "b.txt", "folder", "new"]


def test_writer_sees_a_hidden_sibling_of_the_same_suffixes(tmp_path):
    seen = []

    def write(path: Path) -> None:
        seen.append(path)
        path.write_bytes(b"x")

    write_with(tmp_path / "scan.nii.gz", write, seen.append)
    assert seen[0] == seen[1]
    assert seen[0].parent == tmp_path
    assert seen[0].name.startswith(".masam-tmp-")
    assert seen[0].name.endswith(".nii.gz")


@pytest.mark.parametrize("name", ["ü ber.txt", "-dash", "a\nb", "x" * 255, "a." + "y" * 253, "no_suffix"])
def test_odd_names(tmp_path, name):
    write_bytes(tmp_path / name, b"1")
    assert (tmp_path / name).read_bytes() == b"1"


def test_order_is_write_verify_flush_rename_flush_folder(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def spy_fsync(descriptor: int) -> None:
        events.append("flush folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "flush file")  # noqa: PTH112
        fsync(descriptor)

    def spy_replace(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(Path, "replace", spy_replace)
    write_bytes(tmp_path / "a", b"1", lambda path: events.append(f"verify {path.read_bytes()!r}"))
    assert events == ["verify b'1'", "flush file", "rename", "flush folder"]


@pytest.mark.parametrize(
    "fault", [KeyboardInterrupt(), ValueError("bug"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, fault):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise fault

    expected = ResourceError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected):
        write_with(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_verification_is_reported_with_the_final_name(tmp_path):
    def verify(temporary: Path) -> None:
        raise InputError("voxels differ", where=temporary)

    with pytest.raises(
        ResourceError, match=r"a\.bin: the file did not read back as it was written \(voxels differ\)"
    ) as e:
        write_bytes(tmp_path / "a.bin", b"1", verify)
    assert "masam-tmp" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


def test_folder_of_that_name_and_parent_that_is_a_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("1")
    with pytest.raises(ResourceError, match=r"folder: the path is a folder or a device"):
        write_bytes(tmp_path / "folder", b"1")
    with pytest.raises(ResourceError, match=r"file/a: cannot write the file \((File exists|Not a directory)\)"):
        write_bytes(tmp_path / "file" / "a", b"1")
    with pytest.raises(ResourceError, match=r"cannot write the file \(File name too long\)"):
        write_bytes(tmp_path / ("x" * 256), b"1")
    with pytest.raises(ResourceError, match="null character"):
        write_bytes(tmp_path / "a\0b", b"1")
    with pytest.raises(ResourceError, match="device"):
        write_bytes(Path("/dev/null"), b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_writer_that_wrote_nothing(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot write the file \(No such file"):
        write_with(tmp_path / "a", lambda path: None)


def test_a_file_written_elsewhere_is_flushed_and_renamed(tmp_path, monkeypatch):
    flushed, fsync = [], os.fsync

    def spy(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    (tmp_path / "a.part").write_bytes(b"new")
    (tmp_path / "a").write_bytes(b"old")
    inode = (tmp_path / "a.part").stat().st_ino
    put_in_place(tmp_path / "a.part", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"new"
    assert flushed == [inode, tmp_path.stat().st_ino]


def test_a_file_that_cannot_be_renamed_stays(tmp_path):
    (tmp_path / "a.part").write_bytes(b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match=r"folder: the path is a folder or a device; choose another"):
        put_in_place(tmp_path / "a.part", tmp_path / "folder")
    with pytest.raises(ResourceError, match=r"b/a: cannot write the file \(No such file or directory\)"):
        put_in_place(tmp_path / "a.part", tmp_path / "b" / "a")
    assert (tmp_path / "a.part").read_bytes() == b"new"
    with pytest.raises(ResourceError, match=r"cannot write the file \(No such file or directory\)"):
        put_in_place(tmp_path / "c.part", tmp_path / "c")


def test_folder_without_permission():
    code = """
import os, sys
from pathlib import Path
from masam.atomic import write_bytes
from masam.errors import ResourceError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    write_bytes(Path(sys.argv[1]), b"1")
except ResourceError as error:
    print(error.line())
"""
    # Not pytest's folder, which the user of the child process cannot read.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        result = run(code, f"{folder}/a")
        assert result.stdout.startswith(f"error[RESOURCE]: {folder}/a: cannot write the file (Permission denied)"), (
            result
        )


def test_full_disk_at_twenty_thresholds(tmp_path):
    """RLIMIT_FSIZE simulates a full disk: the old file stays, no incomplete file is visible, failures are reported."""
    code = """
import resource, sys
from pathlib import Path
from masam.atomic import write_bytes
from masam.errors import ResourceError
path = Path(sys.argv[1])
for limit in range(0, 100_000, 5_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_bytes(path, bytes(100_000))
        print("saved")
    except ResourceError as error:
        print(error.exit_code, path.read_bytes() == b"old", len(list(path.parent.iterdir())), error)
"""
    (tmp_path / "a").write_bytes(b"old")
    lines = run(code, str(tmp_path / "a")).stdout.splitlines()
    assert len(lines) == 20
    for line in lines:
        reason = "cannot write the file (File too large); free disk space or choose another location"
        assert line == f"5 True 1 {tmp_path}/a: {reason}"


def test_kill_leaves_only_a_temporary_which_is_removed(tmp_path):
    code = """
import sys, time
from pathlib import Path
from masam.atomic import write_with
def write(path):
    path.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
write_with(Path(sys.argv[1]), write)
"""
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert remove_stale(tmp_path) == []  # in use
        child.send_signal(signal.SIGKILL)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    removed = remove_stale(tmp_path)
    assert [p.name[:11] for p in removed] == [".masam-tmp-"]
    assert list(tmp_path.iterdir()) == [path]


def test_stale_files_of_others_are_kept_until_they_are_old(tmp_path):
    elsewhere = tmp_path / ".masam-tmp-00000000-1-00000000.nii.gz"
    foreign = tmp_path / ".other-tmp-00000000-1-00000000"
    ours = tmp_path / f".masam-tmp-{atomic._host()}-{os.getpid()}-00000000"
    for path in (elsewhere, foreign, ours):
        path.write_bytes(b"1")
    (tmp_path / ".masam-tmp-00000000-2-00000000").mkdir()
    assert remove_stale(tmp_path) == []
    old = time.time() - atomic.STALE_AFTER_S - 60
    for path in (elsewhere, foreign, ours):
        os.utime(path, (old, old))
    assert remove_stale(tmp_path) == sorted([elsewhere, ours])
    assert foreign.exists()
    assert remove_stale(tmp_path / "missing") == []


def write_pair(path: Path) -> str:
    path.write_text("main")
    path.with_name(f"{path.name}.data").write_text("data")
    return "done"


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_files_that_belong_together_are_moved_together(tmp_path):
    seen = []

    def write(path: Path) -> str:
        seen.append(path)
        assert contents(tmp_path) == {}
        return write_pair(path)

    assert write_aside(tmp_path / "new" / "a.onnx", write) == "done"
    assert contents(tmp_path) == {"new/a.onnx": "main", "new/a.onnx.data": "data"}
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert seen[0].name == "a.onnx"
    assert seen[0].parent.name.startswith(".masam-tmp-")


def test_a_folder_is_moved_when_complete(tmp_path):
    def write(path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_text("x")

    write_aside(tmp_path / "bundle", write)
    assert contents(tmp_path) == {"bundle/inner/file": "x"}


def test_the_requested_path_is_moved_last(tmp_path, monkeypatch):
    moved, rename = [], Path.rename

    def spy(self: Path, target: Path) -> Path:
        moved.append(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", spy)
    write_aside(tmp_path / "a.onnx", write_pair)
    assert moved == ["a.onnx.data", "a.onnx"]


@pytest.mark.parametrize("kind", [InputError("bad"), KeyboardInterrupt(), ValueError("bad")])
def test_a_failed_function_leaves_nothing(tmp_path, kind):
    def write(path: Path) -> None:
        write_pair(path)
        raise kind

    with pytest.raises(type(kind)):
        write_aside(tmp_path / "a.onnx", write)
    assert list(tmp_path.iterdir()) == []


def test_a_move_that_fails_moves_nothing(tmp_path, monkeypatch):
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "a.onnx" and target.parent == tmp_path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    message = r"a.onnx: cannot write the file \(No space left on device\); free disk space or choose another location$"
    with pytest.raises(ResourceError, match=message):
        write_aside(tmp_path / "a.onnx", write_pair)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("there", ["a.onnx", "a.onnx.data"])
def test_existing_files_are_not_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    message = rf"^{tmp_path / there}: the path already exists; choose another name$"
    with pytest.raises(ResourceError, match=message):
        write_aside(tmp_path / "a.onnx", write_pair)
    assert contents(tmp_path) == {there: "mine"}


def test_existing_files_are_replaced_once_the_new_ones_are_complete(tmp_path):
    (tmp_path / "a.onnx").mkdir()
    (tmp_path / "a.onnx" / "old").write_text("old")
    (tmp_path / "a.onnx.data").write_text("old data")

    def write(path: Path) -> None:
        assert contents(tmp_path) == {"a.onnx/old": "old", "a.onnx.data": "old data"}
        write_pair(path)

    write_aside(tmp_path / "a.onnx", write, replace=True)
    assert contents(tmp_path) == {"a.onnx": "main", "a.onnx.data": "data"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "a.onnx.data"]


@pytest.mark.parametrize("fails", ["aside", "move"])
def test_existing_files_stay_if_the_move_fails(tmp_path, monkeypatch, fails):
    (tmp_path / "a.onnx").write_text("old")
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "a.onnx" and self.parent.parent == tmp_path and fails == "move":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    def write(path: Path) -> None:
        write_pair(path)
        if fails == "aside":
            raise ResourceError("no space", where=path)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ResourceError, match=r"a.onnx: (no space|cannot write the file)"):
        write_aside(tmp_path / "a.onnx", write, replace=True)
    assert contents(tmp_path) == {"a.onnx": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_errors_name_the_final_path(tmp_path):
    def write(path: Path) -> None:
        raise ResourceError("no space", where=path, fix="free some")

    with pytest.raises(ResourceError, match=rf"^{tmp_path / 'a.onnx'}: no space; free some$"):
        write_aside(tmp_path / "a.onnx", write)
    with pytest.raises(ResourceError, match="the name contains a null character"):
        write_aside(tmp_path / "a\0b", write)


def test_stale_folders_are_removed_and_links_are_not_followed(tmp_path):
    code = "import os, sys, pathlib\nfrom masam import atomic\n" + (
        "atomic.write_aside(pathlib.Path(sys.argv[1]), lambda p: (p.mkdir(), os.kill(os.getpid(), 9)))"
    )
    assert run(code, str(tmp_path / "bundle")).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.is_dir()
    mine = tmp_path / "mine"
    mine.mkdir()
    link = left.with_name(left.name[:-1] + ("0" if left.name[-1] != "0" else "1"))
    link.symlink_to(mine)
    assert remove_stale(tmp_path) == sorted([left, link])
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
