"""Every way to run the convolutions of a network on a GPU, layer by layer and as a whole.

    python benchmarks/gpu/conv_variants.py [--models ssd300_vgg16 ...] [--batch 64] [--seconds 90]

Layers are taken from the fused network (`ssd_core/runners/cuda_network.py`): each is timed with its
bias, activation and skip connection on random bf16 input, as a captured graph of some launches
after one another. Variants:

- cudnn: `F.conv2d` with bias, then activation and skip connection as PyTorch has them
- cudnn bare: the convolution alone, without bias: the least that any cuDNN variant could take
- finished: that, then bias and ReLU in one kernel
- frontend: a graph of nvidia-cudnn-frontend with convolution, bias and activation in one plan
- triton ROWSxCOLUMNSxDEPTH/WARPS/STAGES: the kernel of `ssd_core/ops/convolution_triton.py`

The whole network is timed as a graph too: eager with cuDNN, and fused with the tiles of
`fused.tile_for` and with the best of each layer. Before that the fused network is compared with
fp32 on the same device. Results go to `conv_layers.csv` and `conv_networks.csv` in the folder OUT.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import hardware, introduce

from ssd_core.models.zoo import build_model, get_spec
from ssd_core.ops import convolution_triton as op
from ssd_core.runners import cuda_network as fused
from ssd_core.runners.cuda import same_algorithms

OUT = Path(os.environ.get("OUT", Path(__file__).parents[1] / "results" / "gpu"))
MODELS = ("ssd300_vgg16", "ssd_mobilenet_v2_oid")
MOST_SHARED_BYTES = 227 * 1024
LAUNCHES = 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""On a CPU a dry run in Triton's interpreter (TRITON_INTERPRET=1): its times mean nothing."""
COMPILERS = 14
FRONTEND_FROM_FLOP = 2e8
"""Of an image: a plan takes a second to build."""


class Layer(NamedTuple):
    """A convolution somewhere in a network."""

    name: str
    weight_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    geometry: op.Geometry
    activation: str
    residual: bool

    @property
    def flop(self) -> float:
        """Two per multiply-add of the convolution, for one image."""
        out, channels, down, across = self.weight_shape
        height, width = self.geometry.output_size(*self.input_shape[2:])
        return 2.0 * out * channels * down * across * height * width

    @property
    def kind(self) -> tuple[Any, ...]:
        """What is compiled in, tile aside, and what the tile depends on."""
        columns = max(16, 1 << (self.weight_shape[0] - 1).bit_length())
        channels = self.weight_shape[1]
        return (
            self.weight_shape[2:], self.geometry.stride, self.geometry.dilation,
            any(self.geometry.padding), channels < 8, channels % 64, channels % 32 == 0,
            self.activation, self.residual, min(columns, 256),
        )  # fmt: skip


def main() -> None:
    """Layers, then networks."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 8, 16, 64, 128])
    options.add_argument("--seconds", type=float, default=100, help="begin no new layer later")
    options.add_argument("--most-layers", type=int, default=1000, help="per network")
    options.add_argument("--layers-of", nargs="*", default=list(MODELS), choices=MODELS)
    chosen = options.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    introduce(DEVICE, "torch", "triton", "nvidia-cudnn-frontend")
    print("cudnn", torch.backends.cudnn.version())
    deadline = time.monotonic() + chosen.seconds
    with torch.inference_mode():
        for name in chosen.models:
            best: dict[tuple[int, ...], op.Tile] = {}
            if name in chosen.layers_of:
                best = layers(name, chosen.batch, deadline, chosen.most_layers)
                if name == "ssd_mobilenet_v2_oid":
                    depthwise_layers(chosen.batch)
            networks(name, chosen.batches, best)


DEPTHWISE = [
    # channels, height and width of the input, stride: those of MobileNetV2 at 300x300
    (32, 150, 1), (96, 150, 2), (144, 75, 1), (144, 75, 2), (192, 38, 1), (192, 38, 2),
    (384, 19, 1), (576, 19, 1), (576, 19, 2), (960, 10, 1),
]  # fmt: skip


def depthwise_layers(batch: int) -> None:
    """Time the depthwise convolutions with bias and ReLU6, over block sizes."""
    for channels, size, stride in DEPTHWISE:
        x = torch.randn(batch, channels, size, size, device=DEVICE, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(9, channels, device=DEVICE, dtype=torch.bfloat16)
        bias = torch.randn(channels, device=DEVICE)
        padding = (1, 1, 1, 1) if stride == 1 or size % 2 else (0, 1, 0, 1)
        geometry = op.Geometry((3, 3), stride, 1, padding)
        like_cudnn = weight.T.reshape(channels, 1, 3, 3).contiguous()
        padded = F.pad(x, padding)
        bias16 = bias.bfloat16()

        def cudnn() -> Tensor:
            y = F.conv2d(padded, like_cudnn, bias16, stride, 0, 1, channels)  # noqa: B023
            return F.hardtanh_(y, 0, 6)

        with same_algorithms():
            times = {"cudnn, padded before": graph_us(cudnn)}
        before = op._DEPTHWISE_COLUMNS, op._DEPTHWISE_ELEMENTS, op._DEPTHWISE_WARPS
        for variant in [
            (64, 1024, 4), (64, 2048, 4), (32, 1024, 4), (32, 512, 4), (32, 512, 2), (64, 512, 2),
            (16, 512, 2), (128, 1024, 4),
        ]:  # fmt: skip
            op._DEPTHWISE_COLUMNS, op._DEPTHWISE_ELEMENTS, op._DEPTHWISE_WARPS = variant
            call = lambda: op.depthwise(x, weight, bias, geometry, "relu6")  # noqa: B023, E731
            times["x".join(map(str, variant))] = graph_us(call)
        op._DEPTHWISE_COLUMNS, op._DEPTHWISE_ELEMENTS, op._DEPTHWISE_WARPS = before
        out_bytes = op.depthwise(x, weight, bias, geometry).nbytes
        gigabytes = (x.nbytes + out_bytes) / 1e3
        print(
            f"depthwise {channels} on {size} stride {stride}:",
            *(f"{n} {t:.1f}" for n, t in sorted(times.items(), key=lambda item: item[1])[:4]),
            f"cudnn {times['cudnn, padded before']:.1f}",
            f"best {gigabytes / min(times.values()):.0f} GB/s",
            flush=True,
        )
        for variant_name, microseconds in times.items():
            keep(
                "conv_layers.csv", model="ssd_mobilenet_v2_oid", layer="depthwise", batch=batch,
                weight=f"{channels}x1x3x3s{stride}", input=f"{channels}x{size}x{size}",
                variant=variant_name, us=round(microseconds, 2), tflops=0,
            )  # fmt: skip


def layers(name: str, batch: int, deadline: float, most: int) -> dict[tuple[int, ...], op.Tile]:
    """Time every layer; the best tile by shape of the weights."""
    found = layers_of(name)[:most]
    started = time.monotonic()
    jobs = {(layer.kind, tile): (layer, tile) for layer in found for tile in tiles(layer)}
    with ProcessPoolExecutor(
        COMPILERS if DEVICE == "cuda" else 1, mp_context=get_context("spawn")
    ) as pool:
        failed = [text for text in pool.map(compile_one, jobs.values(), chunksize=4) if text]
    print(f"{name}: {len(jobs)} kernels compiled in {time.monotonic() - started:.0f} s", flush=True)
    for text in dict.fromkeys(failed):
        print("  failed:", text)
    best: dict[tuple[int, ...], op.Tile] = {}
    totals = dict.fromkeys(("cudnn", "cudnn bare", "frontend", "triton", "chosen"), 0.0)
    timed: dict[tuple[Any, ...], dict[str, float]] = {}
    for layer in found:
        key = layer._replace(name="")
        if key not in timed:
            if time.monotonic() > deadline:
                print("out of time: later layers are left out")
                break
            timed[key] = time_layer(layer, batch)
        times = timed[key]
        of_triton = {n: t for n, t in times.items() if n.startswith("triton")}
        if of_triton:
            winner = min(of_triton, key=of_triton.__getitem__)
            best[layer.weight_shape] = tile_named(winner)
            totals["triton"] += of_triton[winner]
            totals["chosen"] += of_triton.get(
                f"triton {tile_name(chosen_tile(layer))}", of_triton[winner]
            )
        else:
            winner = ""
        for variant in ("cudnn", "cudnn bare", "frontend"):
            totals[variant] += times.get(variant, times["cudnn"])
        rate = layer.flop * batch / 1e6
        ranked = sorted(of_triton.items(), key=lambda item: item[1])[:3]
        print(
            f"{layer.name:34} {layer.flop / 1e9:6.2f}G",
            *(
                f"{variant} {times[variant]:7.1f}" if variant in times else f"{variant} -"
                for variant in ("cudnn", "cudnn bare", "finished", "frontend")
            ),
            *(f"{n.removeprefix('triton ')} {t:.1f} ({rate / t:.0f}T)" for n, t in ranked),
            flush=True,
        )  # fmt: skip
        for variant, microseconds in times.items():
            keep(
                "conv_layers.csv", model=name, layer=layer.name, batch=batch,
                weight="x".join(map(str, layer.weight_shape)),
                input="x".join(map(str, layer.input_shape[1:])), variant=variant,
                us=round(microseconds, 2), tflops=round(rate / microseconds, 1),
            )  # fmt: skip
    print(f"{name} sums, us a batch of {batch}:", {n: round(t) for n, t in totals.items()})
    return best


def networks(name: str, batches: list[int], best: dict[tuple[int, ...], op.Tile]) -> None:
    """Time the whole network in its variants."""
    spec = get_spec(name)
    model = trained_like(name)
    variants: dict[str, Callable[[Tensor], Any]] = {
        "eager": model,
        "fused": fused.FusedSSD(model),
    }
    if best:
        variants["fused best"] = fused.FusedSSD(
            model,
            lambda w, d: best.get(tuple(w.shape), fused.tile_for(w, d)),
        )
    check(name, model, variants)
    for batch in batches:
        shape = (batch, 3, *spec.image_size)
        x = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        row = {}
        for variant, network in variants.items():
            with same_algorithms():
                row[variant] = graph_us(lambda n=network, x=x: n(x), launches=1)
        if batch == 64:
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                row["eager searched"] = graph_us(lambda x=x: model(x), launches=1)
        print(
            f"{name} batch {batch}:",
            *(f"{n} {t:.0f} us ({batch / t * 1e6:.0f}/s)" for n, t in row.items()),
            flush=True,
        )
        for variant, microseconds in row.items():
            keep(
                "conv_networks.csv", model=name, batch=batch, variant=variant,
                us=round(microseconds, 1), images_per_second=round(batch / microseconds * 1e6),
            )  # fmt: skip


def check(
    name: str, model: nn.Module, variants: dict[str, Callable[[Tensor], Any]], batch: int = 4
) -> None:
    """Compare with fp32 without TF32, and batches of different sizes with one another."""
    spec = get_spec(name)
    x = torch.rand((batch, 3, *spec.image_size), device=DEVICE) * 2 - 1
    if spec.activation == "softmax":
        x = x * 100
    x = x.bfloat16().to(memory_format=torch.channels_last)
    exact = trained_like(name, torch.float32)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        expected = exact(x.float())
    for variant, network in variants.items():
        found = network(x)
        errors = [
            ((a.float() - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)
        ]
        alone = network(x[2:3])
        again = network(x)
        same = all(torch.equal(a[2:3], b) for a, b in zip(found, alone, strict=True))
        repeats = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        print(
            f"{name} {variant}: error {errors[0]:.2e} {errors[1]:.2e},"
            f" same alone as in a batch: {same}, the same again: {repeats}",
            flush=True,
        )


def trained_like(name: str, dtype: torch.dtype = torch.bfloat16) -> Any:
    """A network with weights that keep activations alive from layer to layer."""
    torch.manual_seed(0)
    model = build_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.05)
    model = model.to(torch.bfloat16).to(dtype)
    return model.to(DEVICE).to(memory_format=torch.channels_last)


def layers_of(name: str) -> list[Layer]:
    """Every convolution of the fused network that is not depthwise, in order."""
    spec = get_spec(name)
    model = trained_like(name)
    found: list[Layer] = []
    real, pixels = op.convolve, fused.CUDNN_FROM_PIXELS

    def convolve(
        x: Tensor, packed: op.Packed, geometry: op.Geometry, activation: str, residual: Any
    ) -> Tensor:
        shape = (packed.out_channels, packed.channels, *geometry.kernel)
        name = f"{len(found)} {'x'.join(map(str, shape))} on {x.shape[2]}"
        kind = geometry, activation, residual is not None
        found.append(Layer(name, shape, tuple(x.shape), *kind))
        return real(x, packed, geometry, activation, residual)

    fused.convolve, fused.CUDNN_FROM_PIXELS = convolve, 10**9
    try:
        x = torch.zeros(1, 3, *spec.image_size, device=DEVICE, dtype=torch.bfloat16)
        fused.FusedSSD(model)(x.to(memory_format=torch.channels_last))
    finally:
        fused.convolve, fused.CUDNN_FROM_PIXELS = real, pixels
    return found


def tiles(layer: Layer) -> list[op.Tile]:
    """The tiles worth trying, the chosen one among them."""
    out, channels = layer.weight_shape[:2]
    whole = max(16, 1 << (out - 1).bit_length())
    taps = layer.weight_shape[2] * layer.weight_shape[3]
    found = [chosen_tile(layer)]
    if channels < 8:
        columns = min(whole, 64)
        sizes = ((64, 4), (256, 8), (128, 8), (64, 2), (256, 4))
        found += [op.Tile(rows, columns, 16, warps, 3) for rows, warps in sizes]
    elif taps == 1:
        depth = 64 if channels % 64 == 0 else 32
        for columns in {min(whole, 64), min(whole, 128), min(whole, 256)}:
            found += [
                op.Tile(64, columns, depth, 4, 3),
                op.Tile(128, columns, depth, 4, 2),
                op.Tile(128, columns, depth, 4 if columns < 128 else 8, 3),
                op.Tile(128, columns, 32, 4 if columns < 128 else 8, 4),
                op.Tile(256, columns, depth, 8, 2),
            ]
    else:
        for columns in {min(whole, 64), min(whole, 128), min(whole, 256)}:
            for rows, warps in ((64, 4), (128, 4), (128, 8), (256, 8)):
                if not 32 <= rows * columns / (32 * warps) <= 128:
                    continue
                found += [op.Tile(rows, columns, 64, warps, stages) for stages in (3, 4)]
    return [
        tile
        for tile in dict.fromkeys(found)
        if (tile.rows + tile.columns) * tile.depth * 2 * tile.stages <= MOST_SHARED_BYTES
        and tile.rows * tile.columns / (32 * tile.warps) <= 128
    ]


def chosen_tile(layer: Layer) -> op.Tile:
    """What the fused network takes."""
    return fused.tile_for(torch.empty(layer.weight_shape, device="meta"), layer.geometry.dilation)


def compile_one(job: tuple[Layer, op.Tile]) -> str:
    """Compile a kernel, into Triton's cache on disk; what went wrong, if anything."""
    layer, tile = job
    try:
        with torch.inference_mode():
            triton_call(layer, tile, 1)()
        synchronise()
    except Exception as error:  # whatever the compiler says
        reason = str(error).partition("\n")[0][:150]
        return f"{tile_name(tile)} {layer.weight_shape}: {type(error).__name__} {reason}"
    return ""


def time_layer(layer: Layer, batch: int) -> dict[str, float]:
    """Microseconds of a batch by variant."""
    calls: dict[str, Callable[[], Callable[[], Any]]] = {
        "cudnn": lambda: cudnn_call(layer, batch),
        "cudnn bare": lambda: bare_call(layer, batch),
    }
    if layer.flop > FRONTEND_FROM_FLOP:
        calls["frontend"] = lambda: frontend_call(layer, batch)
    if layer.activation == "relu" and not layer.residual:
        calls["finished"] = lambda: finished_call(layer, batch)
    for tile in tiles(layer):
        calls[f"triton {tile_name(tile)}"] = lambda t=tile: triton_call(layer, t, batch)
    times = {}
    for variant, make in calls.items():
        try:
            with same_algorithms():
                times[variant] = graph_us(make())
        except Exception as error:  # a variant that does not run is no result
            text = f"{variant}: {type(error).__name__} {' '.join(str(error).split())[:160]}"
            if text not in _said:
                _said.add(text)
                print("  failed:", layer.name, text, flush=True)
            synchronise()
    return times


_said: set[str] = set()


def tensors(layer: Layer, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weights, bias: random bf16."""
    torch.manual_seed(1)
    x = torch.randn((batch, *layer.input_shape[1:]), device=DEVICE, dtype=torch.bfloat16)
    weight = torch.randn(layer.weight_shape, device=DEVICE, dtype=torch.bfloat16) * 0.05
    bias = torch.randn(layer.weight_shape[0], device=DEVICE, dtype=torch.bfloat16)
    last = {"memory_format": torch.channels_last}
    return x.contiguous(**last), weight.contiguous(**last), bias


def symmetric(layer: Layer, x: Tensor) -> tuple[Tensor, list[int]]:
    """The input and the padding that is left to the convolution."""
    left, right, top, bottom = layer.geometry.padding
    if left == right and top == bottom:
        return x, [top, left]
    return F.pad(x, (left, right, top, bottom)), [0, 0]


def after(layer: Layer, y: Tensor, residual: Tensor | None) -> Tensor:
    """Skip connection and activation as PyTorch has them."""
    if residual is not None:
        y = residual + y
    if layer.activation != "none":
        y = F.relu_(y) if layer.activation == "relu" else F.hardtanh_(y, 0, 6)
    return y


def cudnn_call(layer: Layer, batch: int) -> Callable[[], Any]:
    """Convolution with bias, and what follows."""
    x, weight, bias = tensors(layer, batch)
    stride, dilation = layer.geometry.stride, layer.geometry.dilation

    def call(residual: Tensor | None = None) -> Tensor:
        padded, padding = symmetric(layer, x)
        y = F.conv2d(padded, weight, bias, stride, padding, dilation)
        return after(layer, y, residual)

    residual = torch.randn_like(call()) if layer.residual else None
    return lambda: call(residual)


def bare_call(layer: Layer, batch: int) -> Callable[[], Any]:
    """The convolution alone."""
    x, weight, _ = tensors(layer, batch)
    x, padding = symmetric(layer, x)
    stride, dilation = layer.geometry.stride, layer.geometry.dilation
    return lambda: F.conv2d(x, weight, None, stride, padding, dilation)


def finished_call(layer: Layer, batch: int) -> Callable[[], Any]:
    """The convolution alone, then bias and ReLU."""
    bare = bare_call(layer, batch)
    bias = torch.randn(layer.weight_shape[0], device=DEVICE)
    return lambda: op.finish(bare(), bias)


def frontend_call(layer: Layer, batch: int) -> Callable[[], Any]:
    """A plan of cuDNN's frontend, the first of its heuristics."""
    import cudnn

    x, weight, bias = tensors(layer, batch)
    bias = bias.view(1, -1, 1, 1)
    height, width = layer.geometry.output_size(*x.shape[2:])
    y = torch.empty(
        (batch, layer.weight_shape[0], height, width), device=DEVICE, dtype=torch.bfloat16
    ).contiguous(memory_format=torch.channels_last)
    handle = _handle()
    graph = cudnn.pygraph(
        handle=handle, io_data_type=cudnn.data_type.BFLOAT16,
        intermediate_data_type=cudnn.data_type.FLOAT, compute_data_type=cudnn.data_type.FLOAT,
    )  # fmt: skip
    left, right, top, bottom = layer.geometry.padding
    at_x, at_weight = graph.tensor_like(x), graph.tensor_like(weight)
    at_bias = graph.tensor_like(bias)
    result = graph.conv_fprop(
        image=at_x, weight=at_weight, pre_padding=[top, left], post_padding=[bottom, right],
        stride=[layer.geometry.stride] * 2, dilation=[layer.geometry.dilation] * 2,
    )  # fmt: skip
    result = graph.bias(input=result, bias=at_bias)
    pack = {at_x: x, at_weight: weight, at_bias: bias}
    if layer.residual:
        residual = torch.randn_like(y)
        at_residual = graph.tensor_like(residual)
        result = graph.add(a=result, b=at_residual)
        pack[at_residual] = residual
    if layer.activation == "relu":
        result = graph.relu(input=result)
    elif layer.activation == "relu6":
        result = graph.relu(input=result, lower_clip=0.0, upper_clip=6.0)
    result.set_output(True).set_data_type(cudnn.data_type.BFLOAT16)
    graph.build([cudnn.heur_mode.A, cudnn.heur_mode.FALLBACK])
    workspace = torch.empty(max(1, graph.get_workspace_size()), device=DEVICE, dtype=torch.uint8)
    pack[result] = y

    def call() -> Tensor:
        cudnn.set_stream(handle=handle, stream=torch.cuda.current_stream().cuda_stream)
        graph.execute(pack, workspace, handle=handle)
        return y

    return call


def _handle() -> Any:
    import cudnn

    if not _handles:
        _handles.append(cudnn.create_handle())
    return _handles[0]


_handles: list[Any] = []


def triton_call(layer: Layer, tile: op.Tile, batch: int) -> Callable[[], Any]:
    """Our kernel with a tile."""
    x, weight, bias = tensors(layer, batch)
    packed = op.pack(weight, bias, tile)
    residual = None
    if layer.residual:
        residual = torch.randn_like(op.convolve(x, packed, layer.geometry, layer.activation))
    return lambda: op.convolve(x, packed, layer.geometry, layer.activation, residual)


def graph_us(call: Callable[[], Any], launches: int = LAUNCHES) -> float:
    """Microseconds of one call in a captured graph of several."""
    if DEVICE == "cpu":
        started = time.perf_counter()
        call()
        return (time.perf_counter() - started) * 1e6
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        for _ in range(launches):
            kept = call()
    times = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / launches * 1e3)
    del graph, kept
    return median(times[1:])


def synchronise() -> None:
    """Wait for the device."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def tile_name(tile: op.Tile) -> str:
    """ROWSxCOLUMNSxDEPTH/WARPS/STAGES."""
    return f"{tile.rows}x{tile.columns}x{tile.depth}/{tile.warps}/{tile.stages}"


def tile_named(name: str) -> op.Tile:
    """The tile of ``tile_name``."""
    sizes, warps, stages = name.removeprefix("triton ").split("/")
    rows, columns, depth = map(int, sizes.split("x"))
    return op.Tile(rows, columns, depth, int(warps), int(stages))


def keep(file: str, **row: Any) -> None:
    """Append a row to a CSV."""
    path = OUT / file
    row = {"hardware": hardware(DEVICE), "torch": torch.__version__} | row
    new = not path.exists()
    with path.open("a", newline="") as opened:
        writer = csv.DictWriter(opened, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
