"""Tells a web service of every approval.

Apart from the other publishers, so that a studio without a webhook does not load
Tornado. Thread-safe: every call has a connection of its own.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado.httpclient import HTTPClient, HTTPClientError
from tornado.netutil import DefaultLoopResolver
from tornado.simple_httpclient import SimpleAsyncHTTPClient

from nbgen.errors import InvalidRequest, PublishFailed
from nbgen.review.publishers import Publication

_LONGEST_ANSWER = 2**20
_NO_ANSWER = 599
"""Tornado's status for an answer that did not come, or not in whole."""

_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")
"""All that has been allotted of IPv6 for public hosts."""


class WebhookPublisher:
    """Posts the description of an approved picture to a web service as JSON.

    The request carries ``Idempotency-Key``, the same for each attempt at a decision,
    and with a secret ``X-Nbgen-Signature: sha256=<hex>``, the HMAC-SHA256 of the body.
    Any answer from 200 to 299 is a success; where it is JSON with a ``url``, that is
    where the picture was published. Redirects are not followed.

    The connection goes to an address that was checked, never to one that the name
    came to mean afterwards. Thread-safe; a thread with a running event loop must not
    call it, as it blocks up to ten seconds.

    Args:
        url: Where to post: ``https``, or ``http`` to a loopback address.
        secret: What signs the body; None leaves it unsigned.
        allow_private: Whether the service may be in a private network.
        name: What the publisher is called; a studio with two needs two names.
        timeout_s: Seconds that connecting, and the whole request, may take.

    Raises:
        InvalidRequest: The URL or the secret cannot be used.

    Example::

        webhook = WebhookPublisher("https://cms.example/pictures", secret="s3cret")
        studio = Studio(publishers=[webhook])
    """

    def __init__(
        self,
        url: str,
        secret: str | None = None,
        allow_private: bool = False,
        *,
        name: str = "webhook",
        timeout_s: float = 10.0,
    ) -> None:
        self.name = name
        self._timeout_s = timeout_s
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.port != 0
            host, encrypted = parts.hostname, parts.scheme == "https"
        except ValueError:
            usable, host, encrypted = False, None, False
        if not usable or not host:
            raise InvalidRequest(
                "url", url, "a URL that starts with https:// or http://"
            )
        if secret == "":
            raise InvalidRequest("secret", secret, "a text that is not empty, or None")
        self._url = url
        # The rest of the URL may hold a credential, so messages name the host alone.
        self._host = host
        self._encrypted = encrypted
        self._secret = secret
        self._allow_private = allow_private

    def publish(self, publication: Publication) -> str | None:
        """Post the description; return the URL that the service answers, or None.

        Raises:
            PublishFailed: The address is not allowed, or the service cannot be
                reached, does not answer in time, or refuses.
        """
        body = msgspec.json.encode(publication.description())
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": _idempotency_key(publication),
        }
        if self._secret is not None:
            digest = hmac.new(self._secret.encode(), body, hashlib.sha256).hexdigest()
            headers["X-Nbgen-Signature"] = f"sha256={digest}"
        client = HTTPClient(
            SimpleAsyncHTTPClient,
            resolver=_CheckingResolver(
                encrypted=self._encrypted, allow_private=self._allow_private
            ),
            max_buffer_size=_LONGEST_ANSWER,
        )
        try:
            answer = client.fetch(
                self._url,
                method="POST",
                headers=headers,
                body=body,
                connect_timeout=self._timeout_s,
                request_timeout=self._timeout_s,
                follow_redirects=False,
                decompress_response=False,
            )
        except HTTPClientError as error:
            said = error.message if error.code == _NO_ANSWER else f"status {error.code}"
            raise PublishFailed(
                f"The webhook at {self._host} did not take task "
                f"{publication.task_id!r} ({said}). Check the service and the URL."
            ) from error
        except OSError as error:
            raise PublishFailed(
                f"The webhook at {self._host} cannot be reached ({error}). Check the "
                "service and the URL."
            ) from error
        finally:
            client.close()
        return _published_url(answer.body)


class _Answer(msgspec.Struct):
    url: str


class _CheckingResolver(DefaultLoopResolver):
    """Resolves a host, and refuses it if it may not be connected to.

    Tornado connects to what this returns, so nobody can change what the name means
    between the check and the connection.
    """

    def initialize(self, *, encrypted: bool, allow_private: bool) -> None:
        self._encrypted = encrypted
        self._allow_private = allow_private

    async def resolve(
        self, host: str, port: int, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[tuple[int, Any]]:
        """Return the addresses of the host.

        Raises:
            PublishFailed: One of them is not allowed.
            OSError: There is none.
        """
        found = await super().resolve(host, port, family)
        for _, (text, *_) in found:
            address = _plain(ip_address(text))
            if address.is_loopback:
                continue
            if not self._encrypted:
                raise PublishFailed(
                    f"The webhook at {host} ({address}) is not on this machine, so "
                    "its URL must start with https://."
                )
            if not self._allow_private and not _is_public(address):
                raise PublishFailed(
                    f"The webhook at {host} ({address}) is not at a public address. "
                    "Say allow_private=True if it is meant to be in a private network."
                )
        return found


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    # To Python, multicast, site-local and some reserved addresses are global ones.
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    # These two lead to an IPv4 address, wherever that is.
    if address in _NAT64:
        return _is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    if address.sixtofour is not None:
        return _is_public(address.sixtofour)
    return address.is_global and address in _UNICAST


def _idempotency_key(publication: Publication) -> str:
    decided_at = publication.decided_at.astimezone(dt.UTC).isoformat()
    decision = [publication.task_id, publication.reviewer_id, decided_at]
    return hashlib.sha256(msgspec.json.encode(decision)).hexdigest()


def _published_url(answer: bytes) -> str | None:
    try:
        url = msgspec.json.decode(answer, type=_Answer).url.strip()
        scheme = urlsplit(url).scheme
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    # It becomes a link, and a link of another scheme may be a program.
    return url if scheme in ("http", "https") else None
