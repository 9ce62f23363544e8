"""HTTP requests for a file or the rest of a file; a response is checked before any of its content is used."""

from __future__ import annotations

import email.utils
import io
import re
import string
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit

from masam import __version__

_CHUNK_BYTES = 2**18
_MAX_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)
_RETRIED = (408, 425, 429)  # in addition to every 5xx
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_NO_RANGE = re.compile(r"bytes \*/(\d+)")
_SHA256 = re.compile(r'(?:W/)?"?([0-9a-fA-F]{64})"?')


class RefusedError(Exception):
    """The server refuses the file, or its response cannot be accepted; another request would not help."""


class BrokenTransferError(Exception):
    """The transfer was interrupted; a later request, after ``wait_s`` seconds, can resume it."""

    def __init__(self, what: str, wait_s: float = 0.0) -> None:
        super().__init__(what)
        self.wait_s = wait_s


class UnreachableError(BrokenTransferError):
    """No server responded: no network, unknown host, or an untrusted certificate."""


class OutdatedPartError(BrokenTransferError):
    """The partial download is not the beginning of the server's current file."""


@dataclass(frozen=True)
class Response:
    """An accepted response of a server.

    Attributes:
        stream: The content.
        first_byte: Offset in the file of the first byte of the stream.
        size: Size of the complete file in bytes, None if unknown.
        etag: The server's strong ETag of the file, None without one.
        sha256: SHA-256 of the file in hex as published by the host, None if the host publishes none.
    """

    stream: io.BufferedIOBase
    first_byte: int
    size: int | None
    etag: str | None
    sha256: str | None

    def chunks(self, max_bytes: int) -> Iterator[bytes]:
        """Yield the content as it arrives; no OSError is raised from here.

        Args:
            max_bytes: Largest accepted file size, for servers that announce none.

        Raises:
            BrokenTransferError: The connection broke, stalled, or ended before the announced size.
            RefusedError: The server sent more than ``max_bytes``.
        """
        position = self.first_byte
        while self.size is None or position < self.size:
            limit = _CHUNK_BYTES if self.size is None else min(_CHUNK_BYTES, self.size - position)
            try:
                # read1 returns what has arrived; read would lose it when the rest does not arrive in time.
                chunk = self.stream.read1(limit)
            except (OSError, HTTPException) as error:
                raise BrokenTransferError(f"the connection broke ({_reason(error)})") from error
            if not chunk:
                break
            position += len(chunk)
            if self.size is None and position > max_bytes:
                raise RefusedError(f"the server sends more than the expected {max_bytes} bytes")
            yield chunk
        if self.size is not None and position < self.size:
            raise BrokenTransferError(f"the connection ended {self.size - position} bytes early")


@contextmanager
def open_url(url: str, *, first_byte: int = 0, etag: str | None = None, timeout_s: float = 30.0) -> Iterator[Response]:
    """Request a file, starting at a given byte.

    Proxies are read from the environment, certificates are verified, redirects are followed (never from https to http).

    Args:
        url: An http or https address.
        first_byte: Offset of the first requested byte.
        etag: ETag of the version that the preceding bytes belong to, if known.
        timeout_s: Seconds without data after which the connection counts as broken.

    Raises:
        RefusedError: The server refuses the file, or returns something else, such as a login page.
        BrokenTransferError: The connection broke, or the server is busy.
        UnreachableError: No server responded.
        OutdatedPartError: The server does not have the requested range, or returns another range.
    """
    headers = {"User-Agent": f"masam/{__version__}", "Accept-Encoding": "identity"}
    if first_byte:
        headers["Range"] = f"bytes={first_byte}-"
        headers |= {"If-Range": etag} if etag else {}
    sha256 = None
    for _ in range(_MAX_REDIRECTS):
        with _send(url, headers, timeout_s) as response:
            sha256 = sha256 or _published_sha256(response.headers)
            if response.status in _REDIRECTS and "Location" in response.headers:
                url = _redirect_target(url, response.headers["Location"])
                continue
            yield _accept(response, first_byte, etag, sha256)
            return
    raise RefusedError(f"the server redirects more than {_MAX_REDIRECTS} times")


class _KeepRedirects(urllib.request.HTTPErrorProcessor):
    """Returns every response as it is: redirects are checked before they are followed, error codes are judged here."""

    def http_response(self, request: Any, response: Any) -> Any:
        """Return the response; the arguments are those of urllib."""
        return response

    https_response = http_response


def _send(url: str, headers: dict[str, str], timeout_s: float) -> HTTPResponse:
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise RefusedError(f"expected an http or https address, got {url}")
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the scheme is checked
        response: HTTPResponse = urllib.request.build_opener(_KeepRedirects).open(request, timeout=timeout_s)
    except URLError as error:
        if isinstance(error.reason, ConnectionResetError | BrokenPipeError):
            raise BrokenTransferError(f"the connection broke ({_reason(error.reason)})") from error
        raise UnreachableError(f"the server cannot be reached ({_reason(error.reason)})") from error
    except (OSError, HTTPException) as error:
        raise BrokenTransferError(f"the connection broke ({_reason(error)})") from error
    except ValueError as error:
        raise RefusedError(f"the address {url} is invalid ({error})") from error
    return response


def _redirect_target(url: str, location: str) -> str:
    try:
        # Headers are decoded as Latin-1; characters that are not allowed in an address are percent-encoded.
        target = urljoin(url, quote(location, safe=string.punctuation, encoding="iso-8859-1"))
        is_insecure = urlsplit(url).scheme == "https" != urlsplit(target).scheme
    except ValueError as error:
        raise RefusedError(f"the server redirects to an invalid address ({error})") from error
    if is_insecure:
        raise RefusedError(f"the server redirects from https to {target}, which is not secure")
    return target


def _accept(response: HTTPResponse, first_byte: int, etag: str | None, sha256: str | None) -> Response:
    """Return the usable response, or raise the error that explains why it cannot be used."""
    headers, status = response.headers, f"the server answered with status {response.status} ({response.reason})"
    if response.status == 416:
        complete = _NO_RANGE.fullmatch(headers.get("Content-Range", ""))
        if complete and int(complete[1]) == first_byte:
            return Response(io.BytesIO(), first_byte, first_byte, etag, sha256)
        raise OutdatedPartError("the size of the server's file has changed")
    if response.status >= 500 or response.status in _RETRIED:
        raise BrokenTransferError(status, _wait_s(headers))
    if response.status not in (200, 206):
        raise RefusedError(status)
    if headers.get_content_type() == "text/html":
        raise RefusedError("the server answered with a web page, possibly the login page of a network or proxy")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"the server answered with the encoding {headers['Content-Encoding']}, expected none")
    etag = headers.get("ETag")
    if etag and etag.startswith("W/"):
        etag = None  # a weak ETag does not identify the bytes
    if response.status == 200:
        return Response(response, 0, response.length, etag, sha256)
    sent = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if not sent or int(sent[1]) != first_byte:
        raise OutdatedPartError(f"requested the bytes from {first_byte}, the server sent {headers['Content-Range']}")
    return Response(response, first_byte, None if sent[2] == "*" else int(sent[2]), etag, sha256)


def _published_sha256(headers: Message) -> str | None:
    # Hugging Face publishes the SHA-256 of large files in this header; an ETag can be a hash of another kind.
    match = _SHA256.fullmatch(headers.get("X-Linked-ETag", ""))
    return match[1].lower() if match else None


def _wait_s(headers: Message) -> float:
    """Return the seconds requested by ``Retry-After``, which is a number or a date."""
    value = headers.get("Retry-After", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _reason(error: object) -> str:
    return str(error) or type(error).__name__
