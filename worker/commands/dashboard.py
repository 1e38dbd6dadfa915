"""`ssd-worker dashboard`: the web page for operators, until stopped.

Imports no PyTorch, PyAV or NumPy, so that it starts at once.
"""

import contextlib
import logging
import secrets
import signal

from worker.commands.wiring import on_stop_signals, resolve_redis_url
from worker.dashboard.access import Credentials, is_loopback
from worker.dashboard.application import Application
from worker.dashboard.feed import REPLY_TIMEOUT_SECONDS
from worker.dashboard.serving import listen
from worker.errors import SinkError, UsageError
from worker.keys import Keys
from worker.secrecy.names import fill_in_secret
from worker.servers.address import connect
from worker.settings.dashboard import DashboardSettings

log = logging.getLogger(__name__)

MIN_TOKEN = 16
MIN_PASSWORD = 8
"""Characters. Ten wrong ones may be tried at once, and ten a minute from then on."""


def run_dashboard(settings: DashboardSettings) -> int:
    """Serve the page until stopped; returns the exit code."""
    host, port = settings.address
    credentials = _credentials(settings)
    if not is_loopback(host) and not credentials.are_needed and not settings.insecure:
        raise UsageError(
            f"--listen {settings.listen}: others can reach this address: give --auth-token "
            f"{secrets.token_hex(16)} (this one is new), or --insecure if everybody may watch"
        )
    listener = listen(host, port)
    url = resolve_redis_url(settings, settings.redis_url or "embedded")
    with contextlib.suppress(SinkError):  # the page says that Redis is away, and tries again
        connect(url, REPLY_TIMEOUT_SECONDS).close()
    hosts = settings.allowed_hosts or []
    application = Application(
        url, Keys(settings.key_prefix), credentials, hosts if is_loopback(host) else None
    )
    shown = f"[{host}]" if ":" in host else host
    log.info("the page is at http://%s:%d", shown, listener.getsockname()[1])
    with on_stop_signals(application.stop) as signals:
        application.serve(listener)
    return 130 if signal.SIGINT in signals else 0


def _credentials(settings: DashboardSettings) -> Credentials:
    """What is asked for. Raises UsageError for what can be guessed."""
    token, password = (
        None if text is None else fill_in_secret(text, settings.secrets)
        for text in (settings.auth_token, settings.auth_password)
    )
    if token is not None and len(token) < MIN_TOKEN:
        raise UsageError(
            f"--auth-token: it can be guessed: give one of {MIN_TOKEN} characters or more, such as "
            f"{secrets.token_hex(16)} (this one is new)"
        )
    if password is not None and len(password) < MIN_PASSWORD:
        raise UsageError(
            f"--auth-password: it can be guessed: give one of {MIN_PASSWORD} characters or more"
        )
    return Credentials(token, settings.auth_user, password)
