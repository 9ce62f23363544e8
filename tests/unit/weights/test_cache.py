"""Download of weights by name, from a local server in place of their host."""

import hashlib
from dataclasses import replace

import pytest
from fault_server import Fault, Listener, free_port, published, serving

from masam.errors import ConfigError, InputError, ModelError, ResourceError
from masam.weights import published as published_module
from masam.weights.cache import get, verify
from masam.weights.published import PUBLISHED, cache_folder, find_cached_by_sha256, resolve, state
from masam.weights.receipt import read_receipt, receipt_path

CONTENT = bytes(range(256)) * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"other").hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of ``pinned`` and ``stated``; the hash of the latter is not in the registry."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MASAM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MASAM_OFFLINE", raising=False)
    with serving(CONTENT) as server:
        pinned = published("pinned", "pinned.pth", server.url, CONTENT)
        stated = replace(pinned, name="stated", filename="stated.safetensors", sha256=None, bytes=1)
        for name in list(PUBLISHED):
            monkeypatch.delitem(PUBLISHED, name)
        for entry in (pinned, stated):
            monkeypatch.setitem(PUBLISHED, entry.name, entry)
        yield server


STATES = Fault(headers={"X-Linked-ETag": f'"{SHA256}"'})


@pytest.fixture
def by_hand(server):
    """Return a function that puts a file into the cache folder manually."""

    def put(name, content=CONTENT):
        path = cache_folder() / PUBLISHED[name].filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


def test_weights_are_downloaded_once(server):
    listener = Listener()
    path = get("pinned", progress=listener)
    assert path == cache_folder() / "pinned.pth"
    assert path.read_bytes() == CONTENT
    assert read_receipt(path).sha256 == SHA256
    assert listener.tasks == [("pinned.pth", 1)]
    assert get("pinned") == get("pinned", offline=True) == get("pinned", sha256=SHA256.upper()) == path
    assert len(server.requests) == 1


def test_unpinned_weights_are_verified_by_the_hash_of_the_host(server):
    with pytest.raises(ResourceError, match=r"publishes no SHA-256 for the file; give one .* with --sha256"):
        get("stated")
    assert state("stated") == "no"
    server.faults.append(STATES)
    path = get("stated")
    assert path.read_bytes() == CONTENT
    assert get("stated", sha256=SHA256) == path
    with pytest.raises(InputError, match=f"expected SHA-256 {OTHER}, got {SHA256}; delete the file and run"):
        get("stated", sha256=OTHER)


def test_unpinned_weights_are_verified_by_the_hash_of_the_user(server):
    with pytest.raises(InputError, match=f"expected SHA-256 {OTHER}, got {SHA256}; the download was deleted"):
        get("stated", sha256=OTHER)
    assert get("stated", sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("name", "sha256", "message"),
    [
        ("pined", None, "weights: expected one of pinned, stated, got 'pined'; did you mean 'pinned'"),
        ("stated", "abc", "sha256: expected 64 hexadecimal digits, got 'abc'"),
        ("pinned", OTHER, f"sha256: pinned has SHA-256 {SHA256}, got {OTHER}; leave it out"),
    ],
)
def test_unknown_names_and_hashes_are_refused(name, sha256, message):
    with pytest.raises(ConfigError, match=message):
        get(name, sha256=sha256)


def test_a_file_of_another_size_than_published(server):
    server.content += b"x"
    with pytest.raises(InputError, match="expected 25600 bytes, the server announces 25601"):
        get("pinned")


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_offline_error_describes_the_manual_download(server, monkeypatch, how):
    monkeypatch.setenv("MASAM_OFFLINE", "1" if how == "environment" else "0")
    path = cache_folder() / "pinned.pth"
    message = (
        f"^pinned is not on this machine, and downloads are disabled; download {server.url} on another machine, "
        f"put it at {path} and run masam weights verify pinned$"
    )
    with pytest.raises(ResourceError, match=message):
        get("pinned", offline=how == "argument")
    with pytest.raises(ResourceError, match=r"and run masam weights get stated --sha256 HASH$"):
        get("stated", offline=how == "argument")
    assert server.requests == []
    monkeypatch.setenv("MASAM_OFFLINE", "0")
    assert get("pinned") == path


def test_network_errors_describe_the_manual_download(server, monkeypatch):
    path = cache_folder() / "pinned.pth"
    manual = f"download .* on another machine, put it at {path} and run masam weights verify pinned$"
    server.faults.append(Fault(status=404))
    with pytest.raises(ResourceError, match=r"status 404 \(Not Found\); see https://example.org/pinned, or " + manual):
        get("pinned")
    gone = replace(PUBLISHED["pinned"], url=f"http://127.0.0.1:{free_port()}/a")
    monkeypatch.setitem(PUBLISHED, "pinned", gone)
    with pytest.raises(ResourceError, match=r"cannot be reached \(.*\); see https://example.org/pinned, or " + manual):
        get("pinned")


@pytest.mark.parametrize("offline", [True, False])
def test_a_manually_copied_file_is_verified_and_accepted(server, by_hand, offline):
    path = by_hand("pinned")
    assert state("pinned") == "unchecked"
    assert get("pinned", offline=offline) == path
    assert state("pinned") == "yes"
    assert read_receipt(path).url == server.url
    assert server.requests == []


def test_a_wrong_manually_copied_file_is_refused_and_kept(server, by_hand):
    path = by_hand("pinned", b"wrong")
    wrong = hashlib.sha256(b"wrong").hexdigest()
    with pytest.raises(InputError, match=f"pinned.pth: expected SHA-256 {SHA256}, got {wrong}; delete the file"):
        get("pinned")
    assert path.read_bytes() == b"wrong"
    assert state("pinned") == "unchecked"


def test_what_is_no_file_is_refused(by_hand):
    path = by_hand("pinned", b"")
    with pytest.raises(InputError, match=r"pinned\.pth: the file is empty"):
        get("pinned")
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"pinned\.pth: expected a regular file, got a folder"):
        get("pinned")
    path.rmdir()
    assert get("pinned").read_bytes() == CONTENT


def test_a_manually_copied_file_without_a_pinned_hash(server, by_hand):
    path = by_hand("stated")
    with pytest.raises(InputError, match="no SHA-256 is known for the file; run masam weights get stated, whi"):
        get("stated", offline=True)
    with pytest.raises(ResourceError, match="publishes no SHA-256"):
        get("stated")
    assert state("stated") == "unchecked"
    server.faults.append(STATES)
    server.sent = 0
    assert get("stated") == path
    assert state("stated") == "yes"
    receipt_path(path).unlink()
    assert get("stated", offline=True, sha256=SHA256) == path
    assert state("stated") == "yes"


def test_verify_finds_changed_files(server, by_hand):
    assert verify().verified == {}
    pinned = get("pinned")
    server.faults.append(STATES)
    stated = get("stated")
    listener = Listener()
    found = verify(progress=listener)
    assert found.verified == {"pinned": SHA256, "stated": SHA256}
    assert listener.tasks == [("pinned.pth", 1), ("stated.safetensors", 1)]
    found.raise_failures()
    damaged = b"\xff" + CONTENT[1:]
    for path in (pinned, stated):
        path.write_bytes(damaged)
    assert verify(["pinned", "pinned"]).verified == {}
    found = verify()
    got = hashlib.sha256(damaged).hexdigest()
    with pytest.raises(ModelError) as error:
        found.raise_failures()
    assert str(error.value) == (
        f"{pinned}: pinned is damaged: expected SHA-256 {SHA256}, got {got}; "
        "delete the file and run masam weights get pinned; "
        f"{stated}: stated is damaged: expected SHA-256 {SHA256}, got {got}; "
        "delete the file and run masam weights get stated"
    )
    assert len(server.requests) == 2


def test_verify_accepts_a_manually_copied_file(by_hand):
    by_hand("pinned")
    assert verify(["pinned"]).verified == {"pinned": SHA256}
    assert state("pinned") == "yes"
    by_hand("stated")
    found = verify()
    assert found.verified == {"pinned": SHA256}
    with pytest.raises(InputError, match="no SHA-256 is known for the file"):
        found.raise_failures()
    by_hand("pinned", b"wrong")
    with pytest.raises(ModelError, match=r"^[^;]*pinned is damaged: expected [^;]*; delete the file and run masam"):
        verify().raise_failures()


@pytest.mark.usefixtures("server")
def test_verify_of_missing_files():
    with pytest.raises(InputError, match="pinned is not on this machine; run masam weights get pinned"):
        verify(["pinned"])
    with pytest.raises(ConfigError, match="got 'x'"):
        verify(["x"])
    assert get("pinned")
    assert list(verify(["pinned"]).verified) == ["pinned"]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Weights of the package, in a temporary package folder."""
    folder = tmp_path / "assets"
    folder.mkdir()
    entry = replace(published("ours", "ours.safetensors", "", CONTENT), url=None)
    monkeypatch.setattr(published_module, "_PACKAGE", folder)
    for name in list(PUBLISHED):
        monkeypatch.delitem(PUBLISHED, name)
    monkeypatch.setitem(PUBLISHED, "ours", entry)
    monkeypatch.setenv("MASAM_HOME", str(tmp_path / "home"))
    (folder / "ours.safetensors").write_bytes(CONTENT)
    return folder / "ours.safetensors"


def test_weights_of_the_package_need_no_network(shipped, tmp_path):
    assert state("ours") == "yes"
    assert get("ours", offline=True) == resolve("ours") == find_cached_by_sha256(SHA256) == shipped
    assert verify().verified == {"ours": SHA256}
    assert [path.name for path in shipped.parent.iterdir()] == ["ours.safetensors"]
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("content", [None, CONTENT[:-1]])
def test_missing_weights_of_the_package_are_an_error(shipped, content):
    shipped.unlink() if content is None else shipped.write_bytes(content)
    expected = (
        rf"ours.safetensors: expected a file of {len(CONTENT)} bytes with SHA-256 {SHA256}, .*; install masam again"
    )
    for ask in (get, resolve):
        with pytest.raises(ModelError, match=expected):
            ask("ours")


def test_damaged_weights_of_the_package_are_found(shipped):
    shipped.write_bytes(b"\xff" + CONTENT[1:])
    with pytest.raises(ModelError, match=r"ours is damaged: expected SHA-256 .*; install masam again$"):
        verify().raise_failures()
