"""The access rules of a server: origins, hosts and the token.

Pure values, for any thread.
"""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

import msgspec

from nbgen.errors import AccessDenied, InvalidRequest


class Access(msgspec.Struct, frozen=True):
    """The rules of one listener.

    A listener on a loopback address trusts the machine: it accepts pages of any
    loopback origin, and requests without a token. Any other listener needs a token, and
    accepts pages of the listed origins only.

    Example:
        >>> Access("127.0.0.1").allows_origin("http://localhost:3000")
        True

    Attributes:
        host: The address that the server listens on.
        allow_origins: Further origins whose pages may connect, as browsers send them.
        token: The token that a client must send; None only on loopback.

    Raises:
        InvalidRequest: An origin is not one, or a listener beyond loopback lacks its
            token.
    """

    host: str
    allow_origins: tuple[str, ...] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        for origin in self.allow_origins:
            parts = urlsplit(origin)
            if not parts.netloc or origin != f"{parts.scheme}://{parts.netloc}":
                raise InvalidRequest(
                    "allow_origins", origin, "origins such as 'https://example.org'"
                )
        if not self.token and not is_loopback(self.host):
            raise InvalidRequest(
                "token",
                self.token,
                f"given when the server listens on {self.host}, which other machines "
                "can reach (--token or NBGEN_TOKEN); or listen on 127.0.0.1",
            )

    def allows_origin(self, origin: str) -> bool:
        """Return whether pages of that origin may connect."""
        if origin in self.allow_origins:
            return True
        return is_loopback(self.host) and is_loopback(_host_of(origin))

    def allows_host(self, host_header: str) -> bool:
        """Return whether the Host header names this server.

        An attacker's page can make its own host name resolve to 127.0.0.1, so that the
        browser lets it read our answers (DNS rebinding). The Host header still has that
        name.
        """
        return not is_loopback(self.host) or is_loopback(_host_of("//" + host_header))

    def check_token(self, shown: str | None) -> None:
        """Raise ``AccessDenied`` unless the client's token is the right one."""
        if self.token is None:
            return
        if not shown:
            raise AccessDenied(
                "This server wants a token: send 'Authorization: Bearer TOKEN', or "
                "add ?token=TOKEN to the address."
            )
        if not hmac.compare_digest(shown.encode(), self.token.encode()):
            raise AccessDenied("The token is not the one that this server wants.")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address stays on this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
