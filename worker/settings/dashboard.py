"""The settings of `ssd-worker dashboard`.

Checks what can be seen in the settings themselves; opens no socket.
"""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator
from pydantic_settings import NoDecode

from worker.settings.base import RedisSettings

DEFAULT_HOST = "127.0.0.1"


class DashboardSettings(RedisSettings):
    """Serve the web page: all cameras, live."""

    listen: str = Field(
        f"{DEFAULT_HOST}:8080",
        description="HOST:PORT, or PORT of 127.0.0.1, to serve the page at; any other host needs "
        "--auth-token or --auth-password, or --insecure",
    )
    auth_token: str | None = Field(
        None,
        description="token to log in with, or the name of a secret in braces, as in {TOKEN}",
    )
    auth_user: str | None = Field(None, description="user to log in as, with --auth-password")
    auth_password: str | None = Field(
        None,
        description="password of --auth-user, or the name of a secret in braces, as in {PASSWORD}",
    )
    insecure: bool = Field(
        False, description="let everybody who can reach the page see it, without a login"
    )
    allowed_hosts: Annotated[list[str] | None, NoDecode] = Field(
        None,
        description="names, separated by commas, under which a proxy on this machine serves a page "
        "that listens on 127.0.0.1",
    )

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        split_address(value)
        return value

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if value is None:
            return None
        values = [value] if isinstance(value, str) else value
        names = [part.strip() for item in values for part in str(item).split(",")]
        if not all(names) or any("/" in name or ":" in name for name in names):
            raise ValueError("expected host names separated by commas, without port")
        return names

    @model_validator(mode="after")
    def _login_is_whole(self) -> "DashboardSettings":
        if (self.auth_user is None) != (self.auth_password is None):
            raise ValueError("--auth-user and --auth-password belong together: give both")
        if self.auth_user is not None and ":" in self.auth_user:
            raise ValueError("--auth-user: a user name cannot contain a colon")
        if self.redis_url == "none":
            raise ValueError("--redis-url none has no events to show: give a URL")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        return split_address(self.listen)


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``, ``[IPV6]:PORT`` or ``PORT``. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, as in [::1]:8080")
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535 or text.startswith(":"):
        raise ValueError(f"{text!r}: expected HOST:PORT or PORT, such as 127.0.0.1:8080")
    return host.strip("[]") or DEFAULT_HOST, int(port)
