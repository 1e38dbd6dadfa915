"""Who may see the page: a token, or user and password; and what browsers may do with it.

Credentials come in a header, or once in the login form, which gives a cookie in exchange: it is
signed, so that nothing is kept here and a restart logs nobody out. They are never in a URL, a log
or an answer. Comparisons take the same time for any wrong one, and an address that has tried too
many waits.
"""

import base64
import hashlib
import hmac
import ipaddress
import time
from collections import OrderedDict
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

COOKIE = "ssd_worker_dashboard"
COOKIE_SECONDS = 30 * 24 * 3600
WRONG_TRIES = 10
"""Wrong credentials that an address may give at once; one more after each ``FORGIVE_SECONDS``."""
FORGIVE_SECONDS = 6.0
MAX_ADDRESSES = 10_000
"""Whose tries are remembered: the newest."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; connect-src 'self'; font-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""No script or style but our own files, no frames, nothing for other sites."""


@dataclass(frozen=True)
class Credentials:
    """What lets people in; all None: everybody."""

    token: str | None = None
    user: str | None = None
    password: str | None = None

    @property
    def are_needed(self) -> bool:
        """Whether anything is asked for."""
        return self.token is not None or self.password is not None

    def fit_header(self, header: str) -> bool:
        """Whether an Authorization header has the token, or user and password."""
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "bearer":
            return self.fit_token(value.strip())
        if scheme.lower() != "basic" or self.user is None or self.password is None:
            return False
        try:
            given = base64.b64decode(value.strip(), validate=True)
        except ValueError:
            return False
        return _equal(given, f"{self.user}:{self.password}".encode())

    def fit_token(self, token: str) -> bool:
        """Whether this is the token."""
        return self.token is not None and _equal(token.encode(), self.token.encode())

    def new_cookie(self) -> str:
        """A value for the cookie of someone who gave the token."""
        until = str(round(time.time()) + COOKIE_SECONDS)
        return f"{until}.{self._sign(until)}"

    def fit_cookie(self, header: str) -> bool:
        """Whether a Cookie header has a cookie that was given here and is not over."""
        if self.token is None:
            return False
        try:
            cookie = SimpleCookie(header).get(COOKIE)
        except CookieError:
            return False
        until, _, signature = (cookie.value if cookie else "").partition(".")
        return (
            _equal(signature.encode(), self._sign(until).encode())
            and until.isdecimal()
            and float(until) > time.time()
        )

    def _sign(self, text: str) -> str:
        key = hashlib.sha256(f"{COOKIE} {self.token}".encode()).digest()
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _equal(given: bytes, expected: bytes) -> bool:
    """In a time that depends on neither."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


class Tries:
    """Wrong credentials by address, those of an IPv6 network together."""

    def __init__(self) -> None:
        self._full_at: OrderedDict[str, float] = OrderedDict()
        """When an address will have all its tries again."""

    def wait_seconds(self, address: str) -> float:
        """How long an address has to wait before it may try again; 0 if not at all."""
        full_at = self._full_at.get(_network(address), 0.0)
        return max(0.0, full_at - time.monotonic() - (WRONG_TRIES - 1) * FORGIVE_SECONDS)

    def count(self, address: str) -> None:
        """A wrong try."""
        network = _network(address)
        full_at = max(self._full_at.pop(network, 0.0), time.monotonic())
        self._full_at[network] = full_at + FORGIVE_SECONDS
        while len(self._full_at) > MAX_ADDRESSES:
            self._full_at.popitem(last=False)


def _network(address: str) -> str:
    try:
        ip = _ip(address)
    except ValueError:
        return address
    if ip.version == 4:
        return str(ip)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address; that of an IPv4 client of an IPv6 socket as IPv4. Raises ValueError."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return (ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None) or ip


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine only."""
    try:
        return _ip(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(header: str) -> str:
    """The host in a Host header, without its port, in lower case."""
    if header.startswith("["):
        return (header.partition("]")[0] + "]").lower()
    return header.partition(":")[0].lower()
