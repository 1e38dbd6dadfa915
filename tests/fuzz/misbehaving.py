"""Ways to play a file that must never happen, for the tests of the harness. Imports little: each
runs in a child of its own."""

import os
import signal
import time

HOARD = []


def hang(path, case):
    time.sleep(600)  # until the watchdog kills it


def crash(path, case):
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(path, case):
    os._exit(3)


def raise_an_error(path, case):
    raise ValueError("it was never caught")


def take_memory(path, case):
    HOARD.append(b"x" * (400 << 20))
    return "fine"


def crash_at_the_second(path, case):
    return crash(path, case) if case == 1 else "fine"
