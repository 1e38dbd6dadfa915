"""Redis addresses: a URL in, a connected client out, or one line that says why not.

Secrets never leave this module: errors name host and port, never user or password.
"""

from typing import Any, TypeAlias
from urllib.parse import urlsplit

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

RedisClient: TypeAlias = Any
"""redis.Redis or RedisCluster: their type stubs differ from each other and from both."""

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
SCHEMES = ("redis", "rediss", "unix", *CLUSTER_SCHEMES)
REDIS_ERRORS = (RedisError, RedisClusterException, OSError)
"""All that a call to Redis may raise; redis-py's cluster errors stand apart from its others."""
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
CONNECT_TIMEOUT_SECONDS = 3.0
REPLY_TIMEOUT_SECONDS = 10.0


def connect(url: str) -> RedisClient:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or ``redis+cluster://``, checked.

    Raises UsageError for a URL that cannot work, SinkUnavailable if nothing answers there, and
    SinkError if what answers turns us away.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise UsageError(
            f"--redis-url: {_shown(url)}: expected redis://, rediss://, unix:// or "
            "redis+cluster://, or one of the words embedded and none"
        )
    options = {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": REPLY_TIMEOUT_SECONDS,
        "health_check_interval": 30,
    }
    try:
        client: RedisClient
        if scheme in CLUSTER_SCHEMES:
            client = RedisCluster.from_url(CLUSTER_SCHEMES[scheme] + url[len(scheme) :], **options)
        else:
            # The publisher and the consumer do their own waiting, where they can be stopped.
            client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), **options)
        client.ping()
    except REDIS_ERRORS as error:
        raise explain(error, _shown(url)) from error
    except ValueError as error:
        raise UsageError(f"--redis-url: {_shown(url)}: not a Redis URL") from error
    return client


def explain(error: Exception, server: str) -> SinkError:
    """The error of redis-py as ours: whether trying again may help, and what to do."""
    if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)) or (
        isinstance(error, ResponseError) and str(error).startswith(("NOAUTH", "WRONGPASS"))
    ):
        return SinkError(
            f"Redis at {server} refused the login: check user, password and ACL "
            "(redis://USER:PASSWORD@HOST:PORT)"
        )
    if "Cluster mode is not enabled" in str(error):
        return SinkError(f"Redis at {server} is no cluster: write redis:// instead")
    if isinstance(error, PASSING_ERRORS) or str(error).startswith(PASSING_ANSWERS):
        return SinkUnavailable(f"Redis at {server} takes no writes now ({error})")
    if isinstance(error, (RedisConnectionError, RedisTimeoutError, RedisClusterException, OSError)):
        return SinkUnavailable(
            f"no Redis answers at {server}: start one there, or name another with --redis-url"
        )
    return SinkError(f"Redis at {server} said: {error}")


def server_name(client: RedisClient) -> str:
    """Host and port (or socket) of a client, for messages."""
    if isinstance(client, RedisCluster):
        nodes: Any = client
        return ", ".join(sorted(f"{node.host}:{node.port}" for node in nodes.get_nodes()))
    options = client.connection_pool.connection_kwargs
    return str(options.get("path") or f"{options.get('host')}:{options.get('port')}")


def _shown(url: str) -> str:
    """The URL without user, password and options."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "the address"
    if parts.scheme == "unix":
        return parts.path
    return f"{parts.hostname}{port}" if parts.hostname else "the address"
