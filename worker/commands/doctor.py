"""`ssd-worker doctor`: what this machine has, one line per check.

A check tries what it reports on. Changes nothing: it does not start the embedded server.
"""

import ctypes
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version

from worker.errors import WorkerError
from worker.secrecy.names import fill_in
from worker.secrecy.redaction import redact
from worker.servers.address import REDIS_ERRORS, connect
from worker.servers.embedded import data_directory, is_ours, url
from worker.settings.fields import DoctorSettings


def run_doctor(settings: DoctorSettings) -> int:
    """Print "ok", or "no" and why, for each check; returns 1 if something required is missing."""
    checks: list[tuple[str, bool, Callable[[DoctorSettings], str]]] = [
        ("python", True, lambda _: f"{platform.python_version()} on {platform.platform()}"),
        ("torch", True, _torch),
        ("video decoders", True, _decoders),
        # Before PyTorch takes the GPU, as in `run` and `replay`: FFmpeg wants to be first.
        ("hardware decode", False, _hardware_decode),
        ("device", True, _device),
        ("cuda", False, _cuda),
        ("kernels", False, _kernels),
        ("redis", True, _redis),
    ]
    failed = False
    for name, needed, check in checks:
        try:
            line = f"ok  {name}: {check(settings)}"
        # PyTorch raises RuntimeError for a GPU, with a message of many lines.
        except (WorkerError, ValueError, ImportError, OSError, RuntimeError) as error:
            line = f"no  {name}: {redact(str(error).partition(chr(10))[0])}"
            failed |= needed
        print(line, file=sys.stdout)
    return 1 if failed else 0


def _torch(settings: DoctorSettings) -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "av", "redis"))


def _device(settings: DoctorSettings) -> str:
    from ssd_core.cores import usable_cores
    from ssd_core.device import choose_device, choose_precision

    device = choose_device(settings.device)
    precision = str(choose_precision("auto", device)).removeprefix("torch.")
    count = usable_cores()
    cores = f", {count} usable core{'s' * (count > 1)}" if device.type == "cpu" else ""
    return f"{device}{cores}, {precision} by default"


def _cuda(settings: DoctorSettings) -> str:
    import torch

    if not torch.cuda.is_available():
        raise ValueError(f"{_why_no_cuda()}: detection runs on the CPU")
    names = (torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return ", ".join(names)


def _why_no_cuda() -> str:
    import torch

    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1; a container needs --gpus all)"
    return "NVIDIA's driver is installed, but it finds no GPU that it can use"


def _kernels(settings: DoctorSettings) -> str:
    """Whether the fast paths of the device are available, found out by running them."""
    import torch

    from ssd_core import Detector
    from ssd_core.device import choose_device, choose_precision
    from ssd_core.ops import DecodeSettings, decode_nms
    from ssd_core.ops.decode_nms import fallback
    from ssd_core.ops.decode_nms_native import why_missing
    from ssd_core.runners.cpu_fusion import why_not_fused

    device = choose_device(settings.device)
    if device.type == "cpu":
        reason = why_not_fused(choose_precision("auto", device))
        if reason:
            raise ValueError(f"convolutions are not fused, which is slower: {reason}")
        if why_missing():
            raise ValueError(f"decode_nms runs in NumPy, which is slower: {why_missing()}")
        return "oneDNN's fused convolutions, decode_nms in C++"
    outputs = torch.zeros(1, 1, 4, device=device), torch.zeros(1, 1, 2, device=device)
    decoding = DecodeSettings("softmax", 0.5, 0.5, 1, 1)
    decode_nms(*outputs, torch.zeros(1, 4, device=device), decoding)
    torch.cuda.synchronize(device)
    if fallback.reason:
        raise ValueError(f"decode_nms runs in plain PyTorch, which is slower: {fallback.reason}")
    if Detector.load(device=str(device)).implementation != "fused":
        raise ValueError("convolutions are not fused, which is slower: the warning above says why")
    return f"triton {version('triton')}, fused convolutions"


def _decoders(settings: DoctorSettings) -> str:
    from worker.sources.capabilities import video_decoders

    found = video_decoders()
    if not found:
        raise ValueError("PyAV has no decoder for h264, hevc, av1 or mjpeg: reinstall av")
    return ", ".join(found)


def _hardware_decode(settings: DoctorSettings) -> str:
    """Whether frames are decoded where the detector runs, if that is a GPU."""
    from ssd_core.device import choose_device
    from worker.sources.capabilities import NotTriedError, why_no_gpu_decoding

    device = choose_device(settings.device)
    if device.type != "cuda":
        raise ValueError("frames are decoded on the CPU, where detection runs")
    gpu = device.index or 0
    try:
        reason = why_no_gpu_decoding(gpu)
    except NotTriedError as error:
        return f"GPU {gpu} opens; whether it decodes was not tried: {error}"
    if reason:
        raise ValueError(f"frames are decoded on the CPU: {reason}")
    return f"H.264 on GPU {gpu}"


def _redis(settings: DoctorSettings) -> str:
    if settings.redis_url == "none":
        return "none, as asked"
    if settings.redis_url in (None, "embedded"):
        port = settings.embedded_port
        if not is_ours(data_directory(settings.state_dir, port), port):
            return f"the embedded server is down; it starts on port {port} when it is needed"
        address = url(port)
    else:
        address = fill_in(settings.redis_url, settings.secrets)
    client = connect(address)
    try:
        info = client.info("server")
    except REDIS_ERRORS:
        return "answers"  # but does not allow this user to ask for its version
    finally:
        client.close()
    server = info.get("server_name", "redis")
    return f"{server} {info.get('valkey_version') or info.get('redis_version')} answers"
