"""Downloads from a local server that injects faults; no other host is contacted."""

import email.utils
import errno
import hashlib
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from fault_server import Fault, Listener, free_port, serving
from hypothesis import given, settings
from hypothesis import strategies as st

from masam.errors import InputError, ResourceError
from masam.weights import download as module
from masam.weights.download import download, fetch_published_sha256
from masam.weights.part import part_path
from masam.weights.receipt import read_receipt

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server():
    with serving(CONTENT) as server:
        yield server


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.pth"


class Fetch:
    """One download of the server's file, with its pauses and messages."""

    def __init__(self, server, target):
        self.server, self.target = server, target
        self.pauses, self.progress = [], Listener()

    def __call__(self, url=None, **options):
        given = {"sha256": SHA256, "timeout_s": 0.3, "progress": self.progress, "sleep": self.pauses.append}
        return download(url or self.server.url, self.target, **(given | options))

    @property
    def files(self):
        return sorted(path.name for path in self.target.parent.iterdir() if not path.name.startswith("."))


@pytest.fixture
def fetch(server, target):
    return Fetch(server, target)


WHOLE = ["weights.pth", "weights.pth.json"]
PARTS = ["weights.pth.part", "weights.pth.part.json"]


def test_a_download_is_complete_and_has_a_receipt(fetch, server, target):
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert fetch.files == WHOLE
    receipt = read_receipt(target)
    assert (receipt.url, receipt.bytes, receipt.sha256) == (server.url, len(CONTENT), SHA256)
    assert fetch.progress.tasks == [("weights.pth", 3)]
    assert len(fetch.progress.steps) == 3
    assert fetch.progress.steps[-1].startswith("MB, ")
    assert fetch.progress.lines == fetch.pauses == []
    path, headers = server.requests[0]
    assert path == "/weights.pth"
    assert headers["accept-encoding"] == "identity"
    assert headers["user-agent"].startswith("masam/")


def test_a_file_with_a_receipt_is_not_requested_again(fetch, server, target):
    fetch()
    assert fetch() == fetch(sha256=None) == SHA256
    assert len(server.requests) == 1
    # It is requested again with another hash, or if its size has changed.
    with pytest.raises(InputError, match=f"expected SHA-256 {OTHER}, got {SHA256}"):
        fetch(sha256=OTHER)
    assert target.read_bytes() == CONTENT, "the verified file stays until another one is verified"
    target.write_bytes(b"cut")
    assert fetch() == SHA256
    assert len(server.requests) == 3
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_connection_is_resumed_in_the_same_call(fetch, server, target, reset):
    server.faults.extend(Fault(cut_after=n, reset=reset) for n in (1000, 0, 1_200_000))
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert fetch.files == WHOLE
    assert server.ranges == [None, "bytes=1000-", "bytes=1000-", "bytes=1201000-"]
    assert [headers.get("if-range") for _, headers in server.requests] == [None, '"v1"', '"v1"', '"v1"']
    assert server.sent == len(CONTENT), "no byte was sent twice"
    # The third attempt transferred more than a megabyte, so the pauses start again.
    assert fetch.pauses == [1, 2, 1]
    reason = "the connection broke" if reset else "the connection ended 2999000 bytes early"
    assert fetch.progress.lines[0].startswith(reason)
    assert fetch.progress.lines[2].endswith("; resuming at 1.2 MB in 1 s")
    assert fetch.progress.tasks == [("weights.pth", 3)] * 4


def test_too_many_failed_attempts_are_an_error(fetch, server):
    server.faults.extend([Fault(cut_after=10)] * 4)
    with pytest.raises(
        ResourceError, match=r"ended 2999960 bytes early, after 4 attempts in a row; do it by hand"
    ) as e:
        fetch(attempts=4, by_hand="do it by hand")
    assert e.value.where == server.url
    assert fetch.pauses == [1, 2, 4]
    assert fetch.files == PARTS
    assert part_path(fetch.target).read_bytes() == CONTENT[:40]
    assert fetch(attempts=1) == SHA256
    assert server.sent == len(CONTENT)


def test_a_stalled_connection_is_resumed(fetch, server, target):
    server.faults.extend([Fault(stall_after=0), Fault(stall_after=500_000)])
    begun = time.monotonic()
    assert fetch() == SHA256
    assert time.monotonic() - begun > 0.6
    assert fetch.progress.lines == [
        "the connection broke (timed out); resuming at 0.0 MB in 1 s",
        "the connection broke (timed out); resuming at 0.5 MB in 2 s",
    ]
    assert server.ranges == [None, None, "bytes=500000-"]
    assert target.read_bytes() == CONTENT


def test_a_slow_server_is_no_error(fetch, server):
    server.content = CONTENT[:10]
    server.faults.append(Fault(pace=(1, 0.05)))
    assert fetch(sha256=hashlib.sha256(CONTENT[:10]).hexdigest()) == hashlib.sha256(CONTENT[:10]).hexdigest()
    assert fetch.pauses == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_busy_server_is_retried(fetch, server, status):
    server.faults.append(Fault(status=status))
    assert fetch() == SHA256
    assert fetch.pauses == [1]
    assert fetch.progress.lines[0].startswith(f"the server answered with status {status} (")


@pytest.mark.parametrize(
    ("after", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 1, 1),
        ("86400", 60, 60),
        (20, 15, 20),
        (-9, 1, 1),
        ("soon", 1, 1),
        ("²", 1, 1),
    ],
)
def test_retry_after_is_respected_up_to_a_minute(fetch, server, after, low, high):
    if isinstance(after, int):
        after = email.utils.formatdate(time.time() + after, usegmt=True)
    server.faults.append(Fault(status=503, headers={"Retry-After": after}))
    assert fetch() == SHA256
    assert low <= fetch.pauses[0] <= high


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault(status=401), r"the server answered with status 401 \(Unauthorized\)"),
        (Fault(status=403), r"status 403 \(Forbidden\)"),
        (Fault(status=404), r"status 404 \(Not Found\)"),
        (Fault(status=404, headers=HTML, body=b"<html>"), r"status 404 \(Not Found\)"),
        (Fault(status=410), r"status 410 \(Gone\)"),
        (Fault(status=204), r"status 204 \(No Content\)"),
        (Fault(status=302), r"status 302 \(Found\)"),
        (Fault(headers=HTML, body=b"<html>"), "answered with a web page, possibly the login page"),
        (Fault(headers={"Content-Encoding": "gzip"}), "answered with the encoding gzip, expected none"),
        (Fault(status=302, headers={"Location": "ftp://127.0.0.1/a"}), "expected an http or https address, got ftp:"),
        (Fault(status=302, headers={"Location": "file:///etc/passwd"}), "expected an http or https address, got file:"),
        (Fault(status=302, headers={"Location": "http://[::1/"}), "redirects to an invalid address"),
        (Fault(status=302, headers={"Location": f"http://{'a' * 70}/"}), "the address http://a+/ is invalid"),
    ],
)
def test_unusable_responses_are_not_retried(fetch, server, fault, message):
    server.faults.append(fault)
    with pytest.raises(ResourceError, match=message) as error:
        fetch(by_hand="see the page")
    assert str(error.value).startswith(f"{server.url}: ")
    assert str(error.value).endswith("; see the page")
    assert fetch.pauses == fetch.files == []
    assert len(server.requests) == 1
    assert fetch() == SHA256


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "/etc/passwd", "data:,x"])
def test_only_http_and_https_are_accepted(fetch, url):
    with pytest.raises(ResourceError, match="expected an http or https address, got "):
        fetch(url)


def test_a_download_with_a_wrong_hash_is_deleted(fetch, server):
    server.content = CONTENT[:-1] + b"\0"
    got = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(InputError, match=f"expected SHA-256 {SHA256}, got {got}; the download was deleted; run"):
        fetch()
    assert fetch.files == []
    server.content = CONTENT
    assert fetch() == SHA256
    assert server.ranges == [None, None]


@pytest.mark.parametrize("ignores_range", [False, True])
def test_a_file_that_changed_between_attempts_starts_anew(fetch, server, target, ignores_range):
    server.content, server.etag = bytes(len(CONTENT)), '"v0"'
    server.faults.append(Fault(cut_after=1_500_000))
    with pytest.raises(ResourceError):
        fetch(attempts=0)
    assert part_path(target).stat().st_size == 1_500_000
    server.content, server.etag = CONTENT, '"v1"'
    server.faults.append(Fault(ignores_range=ignores_range))
    assert fetch() == SHA256
    assert fetch.pauses == []
    assert server.sent == 1_500_000 + len(CONTENT)


def test_a_server_without_ranges_starts_anew(fetch, server, target):
    server.faults.extend([Fault(cut_after=1_500_000, ignores_range=True), Fault(ignores_range=True)])
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert server.sent == 4_500_000
    assert fetch.pauses == [1]


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_range_that_was_not_requested_is_refused(fetch, server, target, shift):
    server.faults.extend([Fault(cut_after=1000), Fault(shift=shift)])
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-", None]
    assert "requested the bytes from 1000, the server sent bytes " in fetch.progress.lines[1]


@pytest.mark.parametrize(
    ("headers", "changed"),
    [
        ({"ETag": '"v2"'}, True),
        ({"Content-Range": f"bytes 1000-2999999/{len(CONTENT) + 1}"}, True),
        ({"X-Linked-ETag": f'"{OTHER}"'}, True),
        ({"Content-Range": "bytes 1000-2999999/*"}, False),
        ({"ETag": None}, False),
        ({"X-Linked-ETag": f'"{SHA256}"'}, False),
    ],
)
def test_a_range_of_another_version_is_refused(fetch, server, target, headers, changed):
    server.faults.extend([Fault(cut_after=1000, headers={"X-Linked-ETag": f'"{SHA256}"'}), Fault(headers=headers)])
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000-"] + [None] * changed
    assert len(fetch.progress.lines) == 1 + changed


@pytest.mark.parametrize("etag", ['W/"v1"', None])
def test_without_a_strong_etag_there_is_no_if_range(fetch, server, target, etag):
    server.faults.append(Fault(cut_after=1000, headers={"ETag": etag}))
    assert fetch() == SHA256
    assert server.ranges == [None, "bytes=1000-"]
    assert "if-range" not in server.requests[1][1]
    assert target.read_bytes() == CONTENT


def left_over(fetch, server, length):
    """Leave a partial file, as an interrupted call does."""
    server.faults.append(Fault(cut_after=length))
    with pytest.raises(ResourceError, match=" early"):
        fetch(attempts=0)
    server.requests.clear()
    server.sent = 0


@pytest.mark.parametrize("announced", [True, False])
def test_a_complete_partial_file_is_used(fetch, server, target, announced):
    """Killed between the last byte and the renaming; with a known size no request is needed."""
    server.content = CONTENT[:-1]
    left_over(fetch, server, 1000)
    server.content = CONTENT
    part_path(target).write_bytes(CONTENT)
    note = target.with_name("weights.pth.part.json")
    size = "3000000" if announced else "null"
    note.write_text(note.read_text().replace("2999999", size))
    assert fetch() == SHA256
    assert server.ranges == ([] if announced else ["bytes=3000000-"])
    assert server.sent == 0
    assert fetch.files == WHOLE


def test_a_partial_file_longer_than_the_file_starts_anew(fetch, server, target):
    left_over(fetch, server, 2000)
    server.content = CONTENT[:1000]
    expected = hashlib.sha256(server.content).hexdigest()
    assert fetch(sha256=expected) == expected
    assert server.ranges == ["bytes=2000-", None]
    assert fetch.progress.lines[-1].startswith("the size of the server's file has changed; resuming at 0.0 MB")
    assert target.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("case", ["no note", "broken note", "other address", "too long", "empty"])
def test_a_partial_file_of_unknown_origin_is_not_resumed(fetch, server, target, case):
    left_over(fetch, server, 1000)
    note = target.with_name("weights.pth.part.json")
    if case == "no note":
        note.unlink()
    elif case == "broken note":
        note.write_text("{")
    elif case == "other address":
        note.write_text(note.read_text().replace("weights.pth", "others.pth"))
    else:
        part_path(target).write_bytes(b"" if case == "empty" else bytes(len(CONTENT) + 1))
    assert fetch() == SHA256
    assert server.ranges == [None]
    assert fetch.files == WHOLE


def test_a_damaged_partial_file_is_detected_by_the_hash(fetch, server, target):
    left_over(fetch, server, 1000)
    part_path(target).write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"expected SHA-256 .* the download was deleted"):
        fetch()
    assert fetch.files == []
    assert fetch() == SHA256


def test_more_than_expected_is_refused(fetch, server):
    server.content = CONTENT + b"x"
    server.faults.append(Fault(stall_after=0))
    with pytest.raises(InputError, match="expected 3000000 bytes, the server announces 3000001"):
        fetch(size=len(CONTENT))
    server.faults.append(Fault(headers={"Content-Length": None}))
    with pytest.raises(ResourceError, match="the server sends more than the expected 3000000 bytes"):
        fetch(size=len(CONTENT))
    # If the body is longer than announced, the announced bytes are the file.
    server.faults.append(Fault(headers={"Content-Length": str(len(CONTENT))}))
    assert fetch(size=len(CONTENT)) == SHA256
    assert fetch.target.read_bytes() == CONTENT


def test_downloads_of_unknown_size_are_limited(fetch, server, monkeypatch):
    monkeypatch.setattr(module, "MAX_DOWNLOAD_BYTES", len(CONTENT) - 1)
    with pytest.raises(InputError, match="expected at most 2999999 bytes, the server announces 3000000"):
        fetch()
    server.faults.append(Fault(headers={"Content-Length": None}))
    with pytest.raises(ResourceError, match="sends more than the expected 2999999 bytes"):
        fetch()
    assert fetch.files == []
    monkeypatch.setattr(module, "MAX_DOWNLOAD_BYTES", len(CONTENT))
    assert fetch() == SHA256


def test_no_announced_size(fetch, server, target):
    """A broken connection looks like the end; the size, if known, or the hash reveals it."""
    silent = {"Content-Length": None}
    server.faults.append(Fault(headers=silent, cut_after=2000))
    with pytest.raises(InputError, match="expected SHA-256"):
        fetch()
    server.faults.extend([Fault(headers=silent, cut_after=2000), Fault(headers=silent)])
    assert fetch(size=len(CONTENT)) == SHA256
    assert server.ranges == [None, None, "bytes=2000-"]
    assert fetch.progress.lines == ["the connection ended 2998000 bytes early; resuming at 0.0 MB in 1 s"]
    target.unlink()
    server.faults.append(Fault(headers=silent))
    assert fetch() == SHA256
    assert fetch.progress.tasks[-1] == ("weights.pth", 0)


def redirect(location, status=302, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status=status, headers={"Location": location, **names})


def test_the_hash_of_the_host_precedes_the_redirect(fetch, server):
    stated = f'"{SHA256}"'
    server.faults.append(redirect("/elsewhere", X_Linked_ETag=stated, ETag=f'"{OTHER}"'))
    assert fetch(sha256=None) == SHA256
    assert [path for path, _ in server.requests] == ["/weights.pth", "/elsewhere"]
    server.faults.append(redirect("/elsewhere", X_Linked_ETag=stated))
    assert fetch_published_sha256(server.url) == SHA256


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed_and_checked(fetch, server, status):
    server.faults.append(redirect("/b", status))
    assert fetch() == SHA256
    fetch.target.unlink()
    server.faults.append(redirect("ftp://127.0.0.1/b", status))
    with pytest.raises(ResourceError, match="expected an http or https address, got ftp"):
        fetch()


def test_the_address_of_a_redirect_is_percent_encoded(fetch, server):
    server.faults.append(redirect("/a b/\xe9?x=%20"))
    assert fetch() == SHA256
    assert server.requests[1][0] == "/a%20b/%E9?x=%20"


def test_endless_redirects_are_refused(fetch, server):
    server.faults.extend([redirect(server.url)] * 4)
    assert fetch() == SHA256
    fetch.target.unlink()
    server.faults.extend([redirect(server.url)] * 30)
    with pytest.raises(ResourceError, match="the server redirects more than 10 times"):
        fetch()
    assert len(server.requests) < 20


def test_the_hash_of_the_host_applies_to_a_resumed_download(fetch, server, target):
    server.faults.extend([redirect("/a", X_Linked_ETag=f'W/"{SHA256.upper()}"'), Fault(cut_after=1000)])
    with pytest.raises(ResourceError, match=" early"):
        fetch(sha256=None, attempts=0)
    server.faults.append(redirect("/a"))
    assert fetch(sha256=None) == SHA256
    assert server.ranges == [None, None, "bytes=1000-", "bytes=1000-"]
    target.unlink()
    server.content = bytes(len(CONTENT))
    server.faults.append(redirect("/a", X_Linked_ETag=f'"{SHA256}"'))
    with pytest.raises(InputError, match=f"expected SHA-256 {SHA256}, got "):
        fetch(sha256=None)


@pytest.mark.parametrize("linked", [None, "", '"v1"', SHA256[:-1], SHA256 + "0"])
def test_a_host_that_publishes_no_hash(fetch, server, linked):
    """A plain ETag may look like a SHA-256 but is not used as one."""
    server.etag = f'"{SHA256}"'
    server.faults.extend([Fault(headers={"X-Linked-ETag": linked})] * 2)
    message = "the host publishes no SHA-256 for the file; give one from a trusted source with --sha256"
    with pytest.raises(ResourceError, match=message):
        fetch(sha256=None)
    with pytest.raises(ResourceError, match=message):
        fetch_published_sha256(server.url)
    assert fetch.files == []
    assert fetch() == SHA256


def test_another_hash_of_the_host_is_reported_before_the_download(fetch, server):
    server.faults.append(Fault(headers={"X-Linked-ETag": OTHER}, stall_after=0))
    with pytest.raises(InputError, match=f"expected SHA-256 {SHA256}, the host publishes {OTHER}"):
        fetch()
    assert fetch.files == []


def test_an_unreachable_server(fetch):
    address = f"http://127.0.0.1:{free_port()}/a"
    with pytest.raises(ResourceError, match=r"the server cannot be reached \(.*refused\); do it by hand") as error:
        fetch(address, by_hand="do it by hand")
    assert error.value.where == address
    assert fetch.pauses == [], "without a network there is nothing to wait for"
    with pytest.raises(ResourceError, match=r"cannot be reached \(.*refused\); do it by hand"):
        fetch_published_sha256(address, by_hand="do it by hand")


def test_an_interrupted_network_is_awaited(fetch, server, target):
    """After a first response, an unreachable server is retried."""
    gone = f"http://127.0.0.1:{free_port()}/a"
    server.faults.extend([Fault(cut_after=1000), redirect(gone), redirect(gone)])
    assert fetch() == SHA256
    assert fetch.pauses == [1, 2, 4]
    assert "the server cannot be reached" in fetch.progress.lines[1]
    assert target.read_bytes() == CONTENT


def test_a_proxy_is_taken_from_the_environment(fetch, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.address)
    assert fetch("http://weights.invalid/a.pth") == SHA256
    assert server.requests[0][0] == "http://weights.invalid/a.pth"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """An untrusted local certificate with its key."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    words = [*words.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", path]
    made = subprocess.run([openssl, *map(str, words)], capture_output=True, check=True, text=True)
    assert path.read_text().count("BEGIN") >= 1, made.stderr
    return path


def test_certificates_are_checked_and_https_stays_https(fetch, server, certificate, tmp_path, monkeypatch):
    if "PRIVATE KEY" not in certificate.read_text():
        pytest.skip("this openssl does not put key and certificate into one file")
    with serving(CONTENT, certificate) as secure:
        with pytest.raises(ResourceError, match=r"cannot be reached \(.*certificate verify failed"):
            fetch(secure.url)
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        secure.faults.append(redirect(server.url))
        with pytest.raises(ResourceError, match=f"redirects from https to {server.url}, which is not secure"):
            fetch(secure.url)
        assert server.requests == []
        secure.faults.append(redirect(f"{secure.address}/b"))
        assert fetch(secure.url) == SHA256
        fetch.target.unlink()
        server.faults.append(redirect(secure.url))
        assert fetch() == SHA256, "from http to https is no loss"


def test_too_little_space_is_reported_before_the_download(fetch, server, monkeypatch):
    usage = shutil.disk_usage("/")
    server.faults.append(Fault(stall_after=0))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_999_999))
    with pytest.raises(ResourceError, match="the download requires 3 MB more, the disk has 2 MB free; free space, or"):
        fetch()
    # Bytes that are already present need no space.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    left_over(fetch, server, 1_000_001)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_999_999))
    assert fetch() == SHA256


def test_a_full_disk_keeps_the_partial_file(fetch, server, target):
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_234_567, hard))
    try:
        message = r"cannot write the file \(File too large\); the partial download is kept: free space and run the"
        with pytest.raises(ResourceError, match=message):
            fetch()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    assert fetch.files == PARTS
    assert part_path(target).read_bytes() == CONTENT[:1_234_567]
    assert fetch() == SHA256
    assert server.ranges == [None, "bytes=1234567-"]


def test_a_folder_that_cannot_be_made(fetch, target):
    target.parent.write_text("a file")
    with pytest.raises(ResourceError, match=r"cache: cannot write to the folder \(.*\); set MASAM_HOME to a writable"):
        fetch()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_file_systems_without_locks_are_supported(fetch, monkeypatch, number):
    def acquire(self, timeout=None):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(module.FileLock, "acquire", acquire)
    assert fetch() == SHA256


def test_a_lock_that_is_denied(fetch, monkeypatch):
    def acquire(self, timeout=None):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(module.FileLock, "acquire", acquire)
    with pytest.raises(ResourceError, match=r"cannot write to the folder \(Read-only file system\); set MASAM_HOME to"):
        fetch()


def test_a_folder_in_place_of_the_file(fetch, target):
    target.mkdir(parents=True)
    with pytest.raises(ResourceError, match="the path is a folder or a device"):
        fetch()
    target.rmdir()
    assert fetch() == SHA256


def test_a_second_process_waits_and_downloads_nothing(fetch, server, target):
    server.faults.append(Fault(stall_after=1000))
    second, done = Fetch(server, target), []
    threads = [threading.Thread(target=lambda one=one: done.append(one(timeout_s=5.0))) for one in (fetch, second)]
    threads[0].start()
    deadline = time.monotonic() + 10
    while not server.requests and time.monotonic() < deadline:
        time.sleep(0.01)
    threads[1].start()
    while not second.progress.lines and time.monotonic() < deadline:
        time.sleep(0.01)
    server.released.set()
    for thread in threads:
        thread.join(10)
    assert done == [SHA256, SHA256]
    assert second.progress.lines == ["another masam process is downloading weights.pth; waiting for it"]
    assert second.progress.tasks == []
    assert server.sent == len(CONTENT)


def test_the_download_of_a_killed_process_is_resumed(fetch, server, target):
    code = """
import sys
from pathlib import Path
from masam.weights.download import download
from masam.progress import Silent
download(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3], progress=Silent())
"""
    server.faults.append(Fault(stall_after=1_000_000))
    with subprocess.Popen([sys.executable, "-c", code, server.url, str(target), SHA256]) as child:
        deadline = time.monotonic() + 10
        while not (part_path(target).exists() and part_path(target).stat().st_size > 900_000):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.kill()
    assert fetch.files == PARTS
    assert fetch() == SHA256
    assert target.read_bytes() == CONTENT
    assert server.sent <= len(CONTENT) + 2**18, "at most what was not yet written is sent again"


@pytest.fixture(scope="module")
def shared_server():
    with serving() as server:
        yield server


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=2000),
    faults=st.lists(
        st.builds(
            Fault,
            cut_after=st.integers(0, 700),
            ignores_range=st.booleans(),
            shift=st.sampled_from([0, 0, 0, 1]),
            status=st.sampled_from([None, None, None, 503]),
        ),
        max_size=8,
    ),
    calls=st.integers(0, 3),
)
def test_any_sequence_of_faults_gives_the_right_bytes(shared_server, content, faults, calls):
    server = shared_server
    server.content = content
    server.faults.clear()
    server.faults.extend(faults)
    expected = hashlib.sha256(content).hexdigest()
    options = {"sha256": expected, "progress": Listener(), "timeout_s": 5.0, "sleep": lambda seconds: None}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "weights.pth"
        for _ in range(calls):  # calls that fail, as if killed
            try:
                download(server.url, target, attempts=0, **options)
            except ResourceError:
                assert not target.exists()
        assert download(server.url, target, attempts=20, **options) == expected
        assert target.read_bytes() == content
        assert {path.name for path in target.parent.iterdir()} - {".weights.pth.lock"} == set(WHOLE)
