#!/bin/sh
# ssd-worker under a restart policy of Docker, which cannot tell exit codes apart.
#
# Takes the arguments of ssd-worker, forwards SIGTERM to it and ends with its exit code, except for
# code 2 (wrong usage or settings): a restart would fail the same way, for ever. Then it waits to be
# stopped: the log ends with what is wrong, and the container becomes unhealthy.

worker=
stopped=
forwarded=

stop() {
    stopped=yes
    forward
}

# Once: another SIGTERM a second later would end the worker without an orderly stop.
forward() {
    if [ -z "$worker" ] || [ -n "$forwarded" ]; then
        return
    fi
    forwarded=yes
    # Before it becomes ssd-worker the new process is a copy of this shell, and would lose the signal.
    while [ "/proc/$worker/exe" -ef "/proc/$$/exe" ]; do
        sleep 0.1
    done
    kill -TERM "$worker" 2>/dev/null
}

start() {
    "$@" &
    worker=$!
    # The signal may have come before there was a process to forward it to.
    [ -z "$stopped" ] || forward
}

finish() {
    wait "$worker"
    code=$?
    # A signal ends `wait` early.
    while kill -0 "$worker" 2>/dev/null; do
        wait "$worker"
        code=$?
    done
}

trap stop TERM
start ssd-worker "$@"
finish
if [ "$code" -eq 2 ] && [ -z "$stopped" ]; then
    echo "entrypoint.sh: not restarting after exit code 2: correct the settings, then start the container again" >&2
    start sleep infinity
    finish
    code=2
fi
exit "$code"
