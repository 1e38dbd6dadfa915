"""Memory that glibc keeps for the next batch instead of returning it to the kernel.

Activations of a batch are allocated and freed again, layer by layer. glibc maps large ones afresh
each time, and trims its heaps when their tops are free, so that the kernel clears the same pages
for every batch. How often depends on the process's layout: bf16 takes 0 to 1,400 page faults an
image, fp32 3,100 to 4,000. Batches of 8 of MobileNet on a busy AMD EPYC of two cores, torch 2.15.0:

                             page faults an image   CPU ms an image   peak MiB
    fp32                                    3,926     30.6 (24 % sys)      908
    fp32, freed memory kept                    20     22.9  (1 % sys)      883
    bf16, in another process                1,405     16.0 (18 % sys)      796
    bf16, freed memory kept                     6     11.8  (0 % sys)      802

The settings hold for the whole process: nothing it frees goes back to the kernel until it ends, and
all threads share one arena. That suits a worker, whose memory is the same for every batch, but not
any program that loads a detector. So a program asks for it; loading a detector does not.
"""

import ctypes
import logging
import os
import sys

log = logging.getLogger(__name__)

# malloc.h of glibc
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep what this process frees; whether it does now.

    Threads that allocated before keep their own arenas: call it before a detector is loaded. Does
    nothing with another C library, or if ``MALLOC_*`` or ``GLIBC_TUNABLES`` configure malloc.
    """
    reason = _why_not()
    if not reason:
        libc = ctypes.CDLL(None)
        settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER_BYTES))
        if all(libc.mallopt(name, value) for name, value in settings):
            return True
        reason = "mallopt refused"
    log.debug("the C library's malloc is left as it is: %s", reason)
    return False


def _why_not() -> str:
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return "it is not glibc"
    configured = [name for name in os.environ if name.startswith("MALLOC_")]
    if "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", ""):
        configured.append("GLIBC_TUNABLES")
    return f"{', '.join(configured)} configure it" if configured else ""
