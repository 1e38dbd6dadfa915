"""Redis addresses: a URL in, a connected client out, or one line that says why not.

Secrets never leave this module: errors name host and port, never user or password.
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
from worker.secrecy.redaction import HOW_TO_WRITE, hide, redact, shown, split_url

RedisClient: TypeAlias = Any
"""redis.Redis or RedisCluster: their type stubs differ from each other and from both."""

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
SCHEMES = ("redis", "rediss", "unix", *CLUSTER_SCHEMES)
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""All that a call to Redis may raise; redis-py's cluster errors stand apart from its others."""
MISSING_SCRIPT = NoScriptError
"""The answer of a server that does not have a script, or not any more."""
PASSING_ERRORS = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
"""Answers that another time may be others: loading, failing over, full."""
PASSING_ANSWERS = ("BUSY ", "MISCONF", "NOREPLICAS")
"""Of the same kind, but plain ResponseErrors to redis-py."""
BROKEN_OFF = (
    "broke off the TLS connection: if it wants a client certificate, one that it trusts, add "
    "ssl_certfile=FILE&ssl_keyfile=FILE behind the ?"
)
TLS_TROUBLE = (
    (
        "CERTIFICATE_VERIFY_FAILED",
        "has a certificate that is not trusted{reason}: name its authority with "
        "?ssl_ca_certs=FILE, and the host as the certificate does",
    ),
    ("_ALERT_", BROKEN_OFF),
    ("EOF occurred in violation of protocol", BROKEN_OFF),
    ("handshake operation timed out", "does not answer in TLS: if it has none, write redis://"),
    ("WRONG_VERSION_NUMBER", "does not answer in TLS: if it has none, write redis://"),
)
"""What OpenSSL's words mean, the first that fits: redis-py has no errors of its own for them."""
DENIED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")
"""How Redis and Valkey say NOPERM to a command of a script."""
CONNECT_TIMEOUT_SECONDS = 3.0
REPLY_TIMEOUT_SECONDS = 10.0
LIVE_REPLY_TIMEOUT_SECONDS = 2.0
"""For live events, which a spool takes meanwhile: a server that hangs must not hold up the end."""


def connect(url: str, reply_timeout: float | None = None) -> RedisClient:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or ``redis+cluster://``, checked.

    Raises UsageError for a URL that cannot work, SinkUnavailable if nothing answers there, and
    SinkError if what answers turns us away.
    """
    hide(url)
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"--redis-url: {server_of(url)}: expected redis://, rediss://, unix:// or "
            "redis+cluster://, or one of the words embedded and none"
        )
    _check(url)
    reply_timeout = REPLY_TIMEOUT_SECONDS if reply_timeout is None else reply_timeout
    options = {
        "socket_connect_timeout": min(CONNECT_TIMEOUT_SECONDS, reply_timeout),
        "socket_timeout": reply_timeout,
        "health_check_interval": 30,
    }
    try:
        client: RedisClient
        if scheme in CLUSTER_SCHEMES:
            # Once more after it has asked who has the slot now; its own 10 times hold up too long.
            client = RedisCluster.from_url(
                CLUSTER_SCHEMES[scheme] + url[len(scheme) :],
                retry=Retry(NoBackoff(), 1),
                **options,
            )
        else:
            # The publisher and the consumer do their own waiting, where they can be stopped.
            client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        client.ping()
    except REDIS_ERRORS as error:
        cut = isinstance(error.__context__, (ConnectionResetError, BrokenPipeError))
        if cut and scheme.startswith("rediss"):  # the alert that says why may be overtaken
            raise SinkUnavailable(f"Redis at {server_of(url)} {BROKEN_OFF}") from error
        raise explain(error, server_of(url)) from error
    except ValueError as error:
        raise UsageError(f"--redis-url: {server_of(url)}: not a Redis URL") from error
    except TypeError as error:  # redis-py hands the URL's options on as they are
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if unknown is None:
            raise
        raise UsageError(
            f"--redis-url: {server_of(url)}: unknown option {unknown[1]} behind the ?"
        ) from error
    return client


def is_cluster(client: RedisClient) -> bool:
    """Whether a client's keys are spread over the servers of a cluster."""
    return isinstance(client, RedisCluster)


def _check(url: str) -> None:
    """Raise UsageError for a URL whose host is not clear, or whose TLS files are of no use."""
    options = {name: values[0] for name, values in parse_qs(_parts(url).query).items()}
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for option in ("ssl_ca_certs", "ssl_certfile"):
        path = options.get(option)
        if path is None:
            continue
        try:
            if option == "ssl_ca_certs":
                tls.load_verify_locations(path)
            else:  # without a password OpenSSL would ask the terminal for one
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
    """The error of redis-py as ours: whether trying again may help, and what to do."""
    denied = _denied(error)
    if denied:
        return SinkError(
            f"Redis at {server} does not let this user {denied}: the ACL rules that it needs are "
            "in deploy/redis-users.acl"
        )
    if isinstance(error, (AuthenticationError, AuthorizationError)) or (
        isinstance(error, ResponseError) and str(error).startswith(("NOAUTH", "WRONGPASS"))
    ):
        return SinkError(
            f"Redis at {server} refused the login: check user and password "
            "(redis://USER:PASSWORD@HOST:PORT)"
        )
    for sign, meaning in TLS_TROUBLE:
        if sign in f"{error} {error.__context__}":
            words = getattr(error.__context__, "verify_message", "").rstrip(".")
            reason = f" ({words})" if words else ""
            return SinkUnavailable(f"Redis at {server} {meaning.format(reason=reason)}")
    if "Cluster mode is not enabled" in str(error):
        return SinkError(f"Redis at {server} is no cluster: write redis:// instead")
    if isinstance(error, PASSING_ERRORS) or str(error).startswith(PASSING_ANSWERS):
        return SinkUnavailable(f"Redis at {server} takes no writes now ({redact(str(error))})")
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError)):
        return SinkUnavailable(
            f"no Redis answers at {server}: start one there, or name another with --redis-url"
        )
    # An older server repeats the whole login that it does not understand.
    answer = str(error).partition(", with args beginning with")[0]
    return SinkError(f"Redis at {server} said: {redact(answer)}")


def _denied(error: Exception) -> str:
    """What the user may not do, or nothing; the server's own words would name the user."""
    cause: BaseException | None = error
    while isinstance(cause, RedisClusterException):  # a node that refuses to tell is "no cluster"
        cause = cause.__cause__ or cause.__context__
    answer = str(cause)
    if not isinstance(cause, NoPermissionError) and not answer.startswith(DENIED_IN_SCRIPT):
        return ""
    command = re.search(r"run the '([^']+)' command", answer)
    if command:
        return f"run {command[1].upper()}"
    return "use one of its keys" if "key" in answer else "run a command of its script"


def destination(url: str) -> str:
    """Which server and database a URL means, without secrets: for what is kept for it.

    Raises UsageError where its host is not clear.
    """
    parts = _parts(url)
    query = parse_qs(parts.query)
    database = query.get("db", [parts.path.strip("/") if parts.scheme != "unix" else ""])[0]
    return f"{server_of(url)}/{database or 0}"


def _parts(url: str) -> SplitResult:
    try:
        return split_url(url)
    except ValueError:
        raise UsageError(f"--redis-url: the address cannot be read: {HOW_TO_WRITE}") from None


def server_name(client: RedisClient) -> str:
    """Host and port (or socket) of a client, for messages."""
    if isinstance(client, RedisCluster):
        nodes: Any = client
        return ", ".join(sorted(f"{node.host}:{node.port}" for node in nodes.get_nodes()))
    options = client.connection_pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")


def server_of(url: str) -> str:
    """Host and port (or socket) of a URL, for messages."""
    server = shown(url).partition("://")[2]
    return "the address" if server.startswith("...") else server
