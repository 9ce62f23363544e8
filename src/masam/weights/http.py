"""One answer of a web server: a file asked for from a byte on, judged before a byte of it is believed."""

from __future__ import annotations

import email.utils
import io
import re
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from masam import __version__

_CHUNK_BYTES = 2**18
_WORTH_ANOTHER_TRY = (408, 425, 429)  # beside all of 5xx
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NO_RANGE = re.compile(r"bytes \*/(\d+)")
_SHA256 = re.compile(r'(?:W/)?"?([0-9a-fA-F]{64})"?')


class RefusedError(Exception):
    """The server does not give the file, or what it gives is not to be taken; asking again would not help."""


class BrokenTransferError(Exception):
    """The transfer broke; a later attempt may go on with it.

    Args:
        what: What happened.
        wait_s: Seconds that the server asks to wait, 0 if it does not say.
    """

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class UnreachableError(BrokenTransferError):
    """No server was reached: no network, no such host, a certificate that is not trusted."""


class UnfitPartError(BrokenTransferError):
    """What is here already is not the beginning of what the server has now."""


@dataclass(frozen=True)
class Answer:
    """What a server sends of a file.

    Attributes:
        stream: The bytes.
        first_byte: Position in the file of the first byte of the stream.
        size: Bytes of the whole file, None if the server does not say.
        etag: The server's mark of this version of the file, None unless it stands for the very bytes.
        stated_sha256: SHA-256 of the file as the host states it, in hex, None if it does not.
    """

    stream: io.BufferedIOBase
    first_byte: int
    size: int | None
    etag: str | None
    stated_sha256: str | None

    def chunks(self, max_bytes: int) -> Iterator[bytes]:
        """Yield the bytes as they come; an OSError is never raised from here.

        Args:
            max_bytes: Largest size of the whole file that is taken, where the server announces none.

        Raises:
            BrokenTransferError: The connection broke, came to a stop, or ended before the announced size.
            RefusedError: More than ``max_bytes`` came.
        """
        position = self.first_byte
        while self.size is None or position < self.size:
            most = _CHUNK_BYTES if self.size is None else min(_CHUNK_BYTES, self.size - position)
            try:
                # read1 gives what has come; read would lose it when the rest does not come in time.
                chunk = self.stream.read1(most)
            except (OSError, HTTPException) as error:
                raise BrokenTransferError(f"the connection broke ({_reason(error)})") from error
            if not chunk:
                break
            position += len(chunk)
            if self.size is None and position > max_bytes:
                raise RefusedError(f"the server sends more than the {max_bytes} bytes that are expected")
            yield chunk
        if self.size is not None and position < self.size:
            raise BrokenTransferError(f"the connection ended {self.size - position} bytes early")


@contextmanager
def opened(url: str, *, first_byte: int = 0, etag: str | None = None, timeout_s: float = 30.0) -> Iterator[Answer]:
    """Ask for a file, from a byte on.

    A proxy is taken from the environment, certificates are checked, redirects are followed (never from https to http).

    Args:
        url: An http or https address.
        first_byte: Position of the first byte that is wanted.
        etag: Version of the file that the bytes before it are of, if known.
        timeout_s: Seconds without a byte after which the connection counts as broken.

    Raises:
        RefusedError: The server does not give the file, or gives something else, such as a login page.
        BrokenTransferError: The connection broke, or the server is busy.
        UnreachableError: No server was reached.
        UnfitPartError: The server has no such range, or sends another one.
    """
    headers = {"User-Agent": f"masam/{__version__}", "Accept-Encoding": "identity"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
        headers |= {"If-Range": etag} if etag else {}
    redirects = _Redirects()
    _require_web(url)
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked
    try:
        response: HTTPResponse = urllib.request.build_opener(redirects).open(request, timeout=timeout_s)
    except HTTPError as error:
        with error:
            size = _NO_RANGE.fullmatch(error.headers.get("Content-Range", ""))
            if error.code == 416 and size and int(size[1]) == first_byte:
                yield Answer(io.BytesIO(), first_byte, first_byte, etag, redirects.stated_sha256)
                return
            raise _judged_status(error) from error
    except URLError as error:
        if isinstance(error.reason, ConnectionResetError | BrokenPipeError):
            raise BrokenTransferError(f"the connection broke ({_reason(error.reason)})") from error
        raise UnreachableError(f"the server cannot be reached ({_reason(error.reason)})") from error
    except (OSError, HTTPException) as error:
        raise BrokenTransferError(f"the connection broke ({_reason(error)})") from error
    except ValueError as error:
        raise RefusedError(f"the server redirects to an address that is none ({error})") from error
    with response:
        yield _judged(response, first_byte, redirects.stated_sha256)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and keeps the SHA-256 that a host states on the way."""

    def __init__(self) -> None:
        self.stated_sha256: str | None = None

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """Look at a redirect before it is followed; the arguments are urllib's."""
        self.stated_sha256 = self.stated_sha256 or _stated_sha256(headers)
        _require_web(newurl)
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            raise RefusedError(f"the server redirects from https to {newurl}, which anyone on the way could alter")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Follow a redirect; the arguments are urllib's, which leaves the connection open if the address is none."""
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except (RefusedError, ValueError):
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _require_web(url: str) -> None:
    if urlsplit(url).scheme not in ("http", "https"):
        raise RefusedError(f"expected an http or https address, got {url}")


def _judged_status(error: HTTPError) -> Exception:
    what = f"the server answered with status {error.code} ({error.reason})"
    if error.code == 416:
        return UnfitPartError("the server's file has another size now")
    if error.code >= 500 or error.code in _WORTH_ANOTHER_TRY:
        return BrokenTransferError(what, _wait_s(error.headers))
    return RefusedError(what)


def _judged(response: HTTPResponse, first_byte: int, stated_sha256: str | None) -> Answer:
    """Return the answer of a response whose status is of 2xx."""
    headers = response.headers
    if headers.get_content_type() == "text/html":
        raise RefusedError("the server answered with a web page, perhaps the login page of a network or proxy")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"the server sent the file packed as {headers['Content-Encoding']}, which was not asked for")
    etag = headers.get("ETag")
    if etag and etag.startswith("W/"):
        etag = None
    stated_sha256 = stated_sha256 or _stated_sha256(headers)
    if response.status == 200:
        return Answer(response, 0, response.length, etag, stated_sha256)
    if response.status != 206:
        raise RefusedError(f"the server answered with status {response.status} ({response.reason})")
    sent = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if not sent or int(sent[1]) != first_byte:
        raise UnfitPartError(f"asked for the bytes from {first_byte} on, the server sent {headers['Content-Range']}")
    size = None if sent[2] == "*" else int(sent[2])
    return Answer(response, first_byte, size, etag, stated_sha256)


def _stated_sha256(headers: Message) -> str | None:
    # Hugging Face states the SHA-256 of large files so; its ETag, and others' ETags, may be of another kind.
    stated = _SHA256.fullmatch(headers.get("X-Linked-ETag", ""))
    return stated[1].lower() if stated else None


def _wait_s(headers: Message) -> float:
    """Return how many seconds ``Retry-After`` asks for, as a number or a date."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _reason(error: object) -> str:
    return str(error) or type(error).__name__
