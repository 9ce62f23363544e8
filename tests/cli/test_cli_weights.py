"""``masam weights``, with a local server in place of the hosts."""

from __future__ import annotations

import hashlib
import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest
from fault_server import Fault, published, serving
from masam_cli import environment, finish

from masam.weights import download
from masam.weights.published import PUBLISHED, cache_folder

CONTENT = np.random.default_rng(0).bytes(2_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NAME = "test-vit-b"

# The real command in a child process, with an additional registry entry.
RUN = """
import json, sys
from masam.weights import download
from masam.weights.published import PUBLISHED, PublishedWeights
entry = PublishedWeights(**json.loads(sys.argv.pop(1)))
PUBLISHED[entry.name] = entry
from masam.cli import run
run()
"""


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MASAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MASAM_OFFLINE", raising=False)
    with serving(CONTENT) as server:
        monkeypatch.setitem(PUBLISHED, NAME, published(NAME, "test.pth", server.url, CONTENT))
        yield server


@pytest.fixture
def path(server):
    return cache_folder() / "test.pth"


def start(*words):
    """Start ``masam weights`` as a process."""
    entry = json.dumps(asdict(PUBLISHED[NAME]))
    command = [sys.executable, "-c", RUN, entry, "weights", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=environment()
    )


def wait_until(happened):
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left_on_disk(path):
    return sorted(file.name for file in path.parent.iterdir() if not file.name.startswith("."))


def test_get_prints_the_path_alone(masam, server, path):
    result = masam("weights", "get", NAME)
    assert (result.code, result.out, result.err) == (0, f"{path}\n", "")
    assert path.read_bytes() == CONTENT
    for words in (["get", NAME, "--offline"], ["path", NAME], ["get", NAME, "--sha256", SHA256, "--quiet"]):
        result = masam("weights", *words)
        assert (result.code, result.out, result.err) == (0, f"{path}\n", "")
    assert len(server.requests) == 1
    assert masam("weights", "get", NAME, "--json").json == {
        **asdict(PUBLISHED[NAME]),
        "on_this_machine": "yes",
        "path": str(path),
    }


def test_get_reports_interruptions(masam, server, path, monkeypatch):
    monkeypatch.setattr(download, "_FIRST_PAUSE_S", 0.0)
    server.faults.extend([Fault(status=503), Fault(cut_after=1_500_000)])
    result = masam("weights", "get", NAME)
    assert (result.code, result.out) == (0, f"{path}\n")
    assert result.err.splitlines() == [
        "the server answered with status 503 (Service Unavailable); resuming at 0.0 MB in 0 s",
        "the connection ended 500000 bytes early; resuming at 1.5 MB in 0 s",
    ]
    path.unlink()
    server.faults.append(Fault(status=503))
    assert masam("weights", "get", NAME, "--quiet").err == ""


def test_list_shows_the_state_of_weights(masam, server, path):
    server.faults.append(Fault(cut_after=10))
    result = masam("weights", "list")
    assert result.code == 0
    row = next(line for line in result.out.splitlines() if NAME in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *(NAME, "vit_b", "2 MB", "Apache-2.0", "no", "https://example.org/test")
    ]
    assert len([line for line in result.out.splitlines() if line.startswith("│")]) == len(PUBLISHED)
    records = masam("weights", "list", "--json").json
    assert [record["name"] for record in records] == list(PUBLISHED)
    assert records[-1] == {**asdict(PUBLISHED[NAME]), "on_this_machine": "no", "path": None}
    path.parent.mkdir(parents=True)
    path.with_name("test.pth.part").write_bytes(b"x")
    assert masam("weights", "list", "--json").json[-1]["on_this_machine"] == "incomplete"
    path.write_bytes(CONTENT)
    assert masam("weights", "list", "--json").json[-1]["on_this_machine"] == "unchecked"
    masam("weights", "get", NAME)
    assert masam("weights", "list", "--json").json[-1]["path"] == str(path)
    assert server.requests == []


def test_verify(masam, server, path):
    result = masam("weights", "verify")
    own = PUBLISHED["masam-vit-t"].sha256
    own_line = f"masam-vit-t: as published, SHA-256 {own}\n"
    assert (result.code, result.out) == (0, own_line)
    result = masam("weights", "verify", NAME)
    assert (result.code, result.out) == (3, "")
    assert result.error == (f"error[INPUT]: {NAME} is not on this machine; run masam weights get {NAME} (about 2 MB)")
    masam("weights", "get", NAME)
    line = f"{NAME}: as published, SHA-256 {SHA256}\n"
    for words, lines in (([], own_line + line), ([NAME], line)):
        verified = masam("weights", "verify", *words)
        assert (verified.code, verified.out) == (0, lines)
    verified = {"masam-vit-t": own, NAME: SHA256}
    assert masam("weights", "verify", "--json").json == {"verified": verified, "failed": {}}
    path.write_bytes(CONTENT[:-1] + b"\0")
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    todo = f"delete the file and run masam weights get {NAME}"
    what = f"{path}: {NAME} is damaged: expected SHA-256 {SHA256}, got {got}; {todo}"
    result = masam("weights", "verify")
    assert (result.code, result.out) == (6, own_line)
    assert result.error == f"error[MODEL]: {what}"
    result = masam("weights", "verify", "--json")
    assert result.code == 6
    assert result.json == {"verified": {"masam-vit-t": own}, "failed": {NAME: what}}
    path.unlink()
    assert masam("weights", "get", NAME).code == masam("weights", "verify").code == 0


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "error[USAGE]: expected a command; see masam weights --help"),
        (["fetch"], 2, "error[USAGE]: No such command 'fetch'; see masam weights --help"),
        (["get"], 2, "error[USAGE]: Missing argument 'name'; see masam weights get --help"),
        (["get", "sam-vitb"], 2, "got 'sam-vitb'; did you mean 'sam-vit-b'?"),
        (["path", "sam-vitb"], 2, "got 'sam-vitb'; did you mean 'sam-vit-b'?"),
        (["verify", "sam-vitb"], 2, "got 'sam-vitb'; did you mean 'sam-vit-b'?"),
        (["get", NAME, "--sha256", "12"], 2, "sha256: expected 64 hexadecimal digits, got '12'"),
        (["path", NAME], 3, f"{NAME} is not on this machine; run masam weights get {NAME} (about 2 MB)"),
        (["get", NAME, "--offline"], 5, "downloads are disabled; download http://127.0.0.1:"),
    ],
)
def test_refusals(masam, words, code, message):
    result = masam("weights", *words)
    assert result.code == code
    assert message in result.error


def test_a_wrong_file_and_no_file(masam, server, path):
    server.faults.append(Fault(body=bytes(len(CONTENT))))
    result = masam("weights", "get", NAME)
    assert (result.code, result.out) == (3, "")
    assert result.error.startswith(f"error[INPUT]: {server.url}: expected SHA-256 {SHA256}, got ")
    server.faults.append(Fault(status=404))
    result = masam("weights", "get", NAME)
    assert (result.code, result.out) == (5, "")
    assert result.error.startswith(f"error[RESOURCE]: {server.url}: the server answered with status 404 (Not Found); ")
    assert left_on_disk(path) == []
    assert masam("weights", "get", NAME).code == 0


def test_a_disk_that_fills_up(masam, server, path):
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        result = masam("weights", "get", NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert result.code == 5
    assert result.error == (
        f"error[RESOURCE]: {path}.part: cannot write the file (File too large); "
        "the partial download is kept: free space and run the command again"
    )
    assert masam("weights", "get", NAME).code == 0
    assert server.ranges == [None, "bytes=1000000-"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_download_is_resumed(masam, server, path, number, code):
    server.faults.append(Fault(stall_after=1_000_000))
    part = path.with_name("test.pth.part")
    process = start("get", NAME)
    wait_until(lambda: part.exists() and part.stat().st_size > 900_000)
    process.send_signal(number)
    stopped = finish(process)
    assert (stopped.code, stopped.out) == (code, "")
    if number != signal.SIGKILL:
        assert stopped.error.startswith("error[STOPPED]: stopped by ")
    assert left_on_disk(path) == ["test.pth.part", "test.pth.part.json"]
    kept = part.stat().st_size
    assert masam("weights", "get", NAME).code == 0
    assert path.read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"]
    assert left_on_disk(path) == ["test.pth", "test.pth.json"]


def test_two_processes_download_once(server, path):
    server.faults.append(Fault(stall_after=1_000_000))
    first = start("get", NAME)
    wait_until(lambda: server.requests)
    second = start("get", NAME)
    assert second.stderr is not None
    assert second.stderr.readline() == "another masam process is downloading test.pth; waiting for it\n"
    # The first process is stalled by the server and killed; the second one resumes its partial file.
    first.kill()
    assert finish(first).code == -signal.SIGKILL
    third = start("get", NAME)
    results = [finish(process) for process in (second, third)]
    assert [(result.code, result.out) for result in results] == [(0, f"{path}\n")] * 2
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert server.sent <= len(CONTENT) + 2**18
