"""Redis addresses: a URL in, a connected client out, or one line that says why not.

Secrets never leave this module: errors contain host and port, never user or password.
"""

import re
import ssl
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qs

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError as RedisConnectionError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
    TryAgainError,
)
from redis.retry import Retry

from worker.errors import SinkError, SinkUnavailable, UsageError
from worker.secrecy.redaction import HOW_TO_WRITE, hide, redact, redact_url, split_url

RedisClient: TypeAlias = Any
"""redis.Redis or RedisCluster: their type stubs differ from each other and from both."""

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
SCHEMES = ("redis", "rediss", "unix", *CLUSTER_SCHEMES)
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""All that a call to Redis may raise; redis-py's cluster errors are not RedisErrors."""
MISSING_SCRIPT = NoScriptError
"""The answer of a server that does not have a script, or has lost it."""
TEMPORARY_ERRORS = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
"""Errors that may pass: the server is loading, failing over or full."""
TEMPORARY_ANSWERS = ("BUSY ", "MISCONF", "NOREPLICAS")
"""More of them, which redis-py raises as plain ResponseErrors."""
TLS_CLOSED = (
    "closed the TLS connection: if it requires a client certificate, add one that it trusts: "
    "ssl_certfile=FILE&ssl_keyfile=FILE after the ?"
)
NO_TLS = "does not answer in TLS: if it has none, use redis://"
TLS_FAILURES = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "has a certificate that is not trusted{reason}: give its CA with ?ssl_ca_certs=FILE, and "
        "use the host name in the certificate",
    ),
    ("_ALERT_", TLS_CLOSED),
    ("EOF occurred in violation of protocol", TLS_CLOSED),
    ("handshake operation timed out", NO_TLS),
    ("WRONG_VERSION_NUMBER", NO_TLS),
)
"""What OpenSSL's messages mean, the first match counts: redis-py has no exceptions for them."""
DENIED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")
"""How Redis and Valkey report NOPERM for a command inside a script."""
URL_OPTIONS = (
    "client_name",
    "db",
    "health_check_interval",
    "password",
    "socket_keepalive",
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
    "ssl_password",
    "username",
)
"""What may stand after the ? of a URL: how to reach the server and what to show it."""
FIXED_OPTIONS = (
    "decode_responses",
    "encoding",
    "encoding_errors",
    "legacy_responses",
    "max_connections",
    "protocol",
    "retry_on_error",
    "retry_on_timeout",
    "single_connection_client",
    "socket_connect_timeout",
    "socket_read_size",
    "socket_timeout",
    "timeout",
)
"""Options of redis-py that change how replies read, or how long they are waited for: publisher and
consumer depend on them."""
CONNECT_TIMEOUT_SECONDS = 3.0
REPLY_TIMEOUT_SECONDS = 10.0
LIVE_REPLY_TIMEOUT_SECONDS = 2.0
"""For live events, which the spool holds meanwhile: a hung server must not delay the shutdown."""


def connect(url: str, reply_timeout: float | None = None, *, retries: int = 1) -> RedisClient:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or ``redis+cluster://``, connected.

    ``retries``: how often a cluster client sends a command again by itself, for commands whose
    repetition does no harm.

    Raises UsageError for a URL that cannot work, SinkUnavailable if nothing answers there, and
    SinkError if the server refuses the client.
    """
    hide(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"--redis-url: {server_of_url(url)}: expected redis://, rediss://, unix:// or "
            "redis+cluster://, or the word embedded or none"
        )
    _check(url)
    reply_timeout = REPLY_TIMEOUT_SECONDS if reply_timeout is None else reply_timeout
    options = {
        "socket_connect_timeout": min(CONNECT_TIMEOUT_SECONDS, reply_timeout),
        "socket_timeout": reply_timeout,
        "health_check_interval": 30,
        "protocol": 2,  # redis-py 8 asks for 3, with a command that Redis 5 does not know
    }
    try:
        client: RedisClient
        if scheme in CLUSTER_SCHEMES:
            # A retry comes once it has asked which node has the slot now; its default of 10 takes
            # too long.
            client = RedisCluster.from_url(
                CLUSTER_SCHEMES[scheme] + url[len(scheme) :],
                retry=Retry(NoBackoff(), retries),
                **options,
            )
        else:
            # No retries: publisher and consumer retry themselves, and can be stopped meanwhile.
            client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        client.ping()
    except REDIS_ERRORS as error:
        cut = isinstance(error.__context__, (ConnectionResetError, BrokenPipeError))
        if cut and scheme.startswith("rediss"):  # the reset may arrive before the alert
            raise SinkUnavailable(f"Redis at {server_of_url(url)} {TLS_CLOSED}") from error
        raise explain(error, server_of_url(url)) from error
    except (TypeError, ValueError) as error:
        # redis-py passes the URL's options on as keyword arguments: not all to every connection.
        option = re.search(r"(?:unexpected keyword argument|Invalid value for) '(\w+)'", str(error))
        if option is not None:
            raise UsageError(
                f"--redis-url: {server_of_url(url)}: the option {option[1]} after the ? does not "
                "fit this address, or its value is wrong: remove or correct it"
            ) from error
        if isinstance(error, TypeError):
            raise
        raise UsageError(
            f"--redis-url: {server_of_url(url)}: not a Redis URL: write "
            "redis://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from error
    return client


def disconnect(client: RedisClient) -> None:
    """Close a client's connections; the next command opens one again, to where its address leads.

    Without this a client stays with a server that has become a replica.
    """
    if is_cluster(client):
        client.disconnect_connection_pools()
    else:
        client.connection_pool.disconnect()


def is_cluster(client: RedisClient) -> bool:
    """Whether a client's keys are spread over the servers of a cluster."""
    return isinstance(client, RedisCluster)


def _check(url: str) -> None:
    """Raise UsageError for a URL with an ambiguous host, wrong options or unusable TLS files."""
    options = {name: values[0] for name, values in parse_qs(_parts(url).query).items()}
    for option in options:
        if option in URL_OPTIONS:
            continue
        problem = f"unknown option {option} after the ?: remove or correct it"
        if option in FIXED_OPTIONS:
            problem = f"the option {option} after the ? cannot be chosen: remove it"
        elif not re.fullmatch(r"\w{1,40}", option):  # it may be anything, a password for example
            problem = "unknown option after the ?: remove or correct it"
        raise UsageError(f"--redis-url: {server_of_url(url)}: {problem}")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for option in ("ssl_ca_certs", "ssl_certfile"):
        path = options.get(option)
        if path is None:
            continue
        try:
            if option == "ssl_ca_certs":
                tls.load_verify_locations(path)
            else:  # without a password OpenSSL would prompt for one on the terminal
                password = options.get("ssl_password", "")
                tls.load_cert_chain(path, options.get("ssl_keyfile"), password)
        except ssl.SSLError as error:
            raise UsageError(
                f"--redis-url: {option}={path}: expected a PEM file, and its key in ssl_keyfile"
            ) from error
        except OSError as error:
            files = f"{path} or its ssl_keyfile" if option == "ssl_certfile" else path
            raise UsageError(f"--redis-url: {option}={files}: {error.strerror}") from error


def explain(error: Exception, server: str) -> SinkError:
    """Translate an error of redis-py: whether a retry may succeed, and what to do."""
    denied = _denied(error)
    if denied:
        return SinkError(
            f"Redis at {server} does not let this user {denied}: give it the ACL rules in "
            "deploy/redis-users.acl"
        )
    if isinstance(error, (AuthenticationError, AuthorizationError)) or (
        isinstance(error, ResponseError) and str(error).startswith(("NOAUTH", "WRONGPASS"))
    ):
        return SinkError(
            f"Redis at {server} refused the login: check user and password "
            "(redis://USER:PASSWORD@HOST:PORT)"
        )
    for sign, meaning in TLS_FAILURES:
        if sign in f"{error} {error.__context__}":
            detail = getattr(error.__context__, "verify_message", "").rstrip(".")
            reason = f" ({detail})" if detail else ""
            return SinkUnavailable(f"Redis at {server} {meaning.format(reason=reason)}")
    if "Cluster mode is not enabled" in str(error):
        return SinkError(f"Redis at {server} is not a cluster: use redis:// instead")
    if "max number of clients" in str(error):
        return SinkUnavailable(
            f"Redis at {server} accepts no more clients: close some, or raise its maxclients"
        )
    if isinstance(error, OutOfMemoryError):
        return SinkUnavailable(
            f"Redis at {server} takes no writes now ({redact(str(error))}): delete what you do not "
            "need with `ssd-worker forget ID`, or raise its maxmemory (--embedded-max-bytes)"
        )
    if isinstance(error, TEMPORARY_ERRORS) or str(error).startswith(TEMPORARY_ANSWERS):
        return SinkUnavailable(f"Redis at {server} takes no writes now ({redact(str(error))})")
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError)):
        return SinkUnavailable(
            f"no Redis answers at {server}: start one there, or name another with --redis-url"
        )
    # An older server echoes the whole login if it does not understand it.
    answer = str(error).partition(", with args beginning with")[0]
    return SinkError(f"Redis at {server} answered: {redact(answer)}")


def _denied(error: Exception) -> str:
    """What the user is not allowed to do, or ""; the server's own message names the user."""
    cause: BaseException | None = error
    while isinstance(cause, RedisClusterException):  # wraps what each node answered
        cause = cause.__cause__ or cause.__context__
    answer = str(cause)
    if not isinstance(cause, NoPermissionError) and not answer.startswith(DENIED_IN_SCRIPT):
        return ""
    command = re.search(r"run the '([^']+)' command", answer)
    if command:
        return f"run {command[1].upper()}"
    return "use one of its keys" if "key" in answer else "run a command of its script"


def destination(url: str) -> str:
    """Server and database of a URL, without secrets: identifies the events spooled for it.

    Raises UsageError for a URL with an ambiguous host.
    """
    parts = _parts(url)
    query = parse_qs(parts.query)
    database = query.get("db", [parts.path.strip("/") if parts.scheme != "unix" else ""])[0]
    return f"{server_of_url(url)}/{database or 0}"


def _parts(url: str) -> SplitResult:
    try:
        return split_url(url)
    except ValueError:
        raise UsageError(f"--redis-url: the address cannot be read: {HOW_TO_WRITE}") from None


def server_of_client(client: RedisClient) -> str:
    """Host and port (or socket) of a client, for messages."""
    if isinstance(client, RedisCluster):
        nodes: Any = client
        return ", ".join(sorted(f"{node.host}:{node.port}" for node in nodes.get_nodes()))
    options = client.connection_pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")


def server_of_url(url: str) -> str:
    """Host and port (or socket) of a URL, for messages."""
    server = redact_url(url).partition("://")[2]
    return "the address" if server.startswith("...") else server
