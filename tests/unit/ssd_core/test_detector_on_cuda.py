"""The real network on a real GPU: graphs, streams, memory, precisions."""

import logging
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from ssd_core import Detector
from ssd_core.errors import DeviceError
from tests.clips import pictures
from tests.conftest import WALKWAY
from worker.sources.conversion import PictureConverter
from worker.sources.planes import PlaneReader

pytestmark = pytest.mark.cuda

SURE = 0.45


@pytest.fixture(scope="module", params=["fp32", "fp16", "bf16"])
def precise(request):
    """A detector on CUDA in each precision."""
    try:
        return Detector.load(device="cuda", precision=request.param)
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def on_cuda():
    """A detector on CUDA in the precision that suits it."""
    return Detector.load(device="cuda")


@pytest.fixture(scope="module")
def decoded():
    return list(pictures(WALKWAY, 6))


@pytest.fixture(scope="module")
def planes(decoded):
    reader = PlaneReader()
    return [reader.convert(picture) for picture in decoded]


@pytest.fixture(scope="module")
def images(decoded):
    converter = PictureConverter((300, 300))
    return [converter.convert(picture) for picture in decoded]


def on_device(image):
    names = ("y", "u", "v")
    moved = {n: torch.tensor(np.ascontiguousarray(getattr(image, n))).cuda() for n in names}
    return replace(image, **moved)


def assert_same_things(found, expected, overlap=0.9):
    """What is expected with a score that no rounding undoes is found, at the same place."""
    compared = 0
    for one, other in zip(found, expected, strict=True):
        for box, score, label in zip(other.boxes, other.scores, other.labels, strict=True):
            if score <= SURE:
                continue
            same = one.labels == label
            overlaps = box_iou(box[None], one.boxes[same])[0]
            assert overlaps.max() > overlap
            assert one.scores[same][overlaps.argmax()] == pytest.approx(float(score), abs=0.06)
            compared += 1
    assert compared > 2 * len(expected)


def assert_equal(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.names == other.names
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)


def test_every_precision_finds_what_the_cpu_finds(precise, mobilenet, golden):
    images = list(golden["inputs"])
    found, expected = precise.detect(images), mobilenet.detect(images)
    assert_same_things(found, expected)
    assert_same_things(expected, found)


def test_detections_are_on_the_cpu(on_cuda, golden):
    (detections,) = on_cuda.detect([golden["inputs"][0]])
    for tensor in (detections.boxes, detections.scores, detections.boxes_normalised):
        assert tensor.device.type == "cpu"
        assert tensor.dtype == torch.float32


def test_every_batch_size_is_a_graph_once_it_ran(precise, images):
    precise.warm_up(2)
    precise.detect(images[:3])
    programs = precise._runner._programs
    assert set(programs) >= {1, 2, 3}
    assert all(program._graph is not None for program in programs.values())
    assert "reference" not in precise.implementation


@pytest.mark.parametrize("kind", ["images", "planes", "planes on the device", "mixed"])
def test_two_batches_in_flight_find_what_they_find_one_by_one(on_cuda, images, planes, kind):
    everything = {
        "images": images,
        "planes": planes,
        "planes on the device": [on_device(image) for image in planes],
        "mixed": [images[0], planes[1], on_device(planes[2]), images[3], planes[4], planes[5]],
    }[kind]
    batches = [everything[:3], everything[3:]] * 4
    one_by_one = [on_cuda.submit(batch)() for batch in batches]
    waits, found = [], []
    for batch in batches:
        waits.append(on_cuda.submit(batch))
        if len(waits) == 2:
            found.append(waits.pop(0)())
    found.append(waits.pop()())
    for one, other in zip(found, one_by_one, strict=True):
        assert_equal(one, other)


def test_planes_show_what_images_show(precise, images, planes):
    assert precise.takes_yuv
    expected = precise.detect(images)
    # Boxes in the pixels of the picture, and of what it was scaled to.
    scale = torch.tensor([768 / 300, 576 / 300] * 2)
    expected = [replace(d, boxes=d.boxes_normalised * 300 * scale) for d in expected]
    assert_same_things(precise.submit(planes)(), expected, overlap=0.85)


def test_planes_on_the_device_show_what_planes_of_the_host_show(on_cuda, planes):
    found = on_cuda.submit([on_device(image) for image in planes])()
    assert_equal(found, on_cuda.submit(planes)())


def test_tensors_on_the_device_show_what_arrays_show(on_cuda, images):
    tensors = [torch.from_numpy(image).cuda() for image in images]
    assert_equal(on_cuda.detect(tensors), on_cuda.detect(images))


@pytest.mark.parametrize("kind", ["image", "planes"])
def test_what_the_callers_stream_is_still_making_is_waited_for(on_cuda, images, planes, kind):
    whole = torch.from_numpy(images[0]).cuda() if kind == "image" else on_device(planes[0])
    tensors = [whole] if kind == "image" else [whole.y, whole.u, whole.v]
    expected = on_cuda.submit([whole])()
    contents = [tensor.clone() for tensor in tensors]
    for tensor in tensors:
        tensor.zero_()
    torch.cuda.synchronize()
    torch.cuda._sleep(300_000_000)  # cycles: about a sixth of a second
    for tensor, content in zip(tensors, contents, strict=True):
        tensor.copy_(content)
    assert_equal(on_cuda.submit([whole])(), expected)


def test_what_the_default_stream_is_still_making_is_waited_for_from_any_stream(on_cuda, planes):
    """As FFmpeg makes pictures that a GPU decodes."""
    whole = on_device(planes[0])
    expected = on_cuda.submit([whole])()
    content = whole.y.clone()
    whole.y.zero_()
    torch.cuda.synchronize()
    torch.cuda._sleep(300_000_000)  # cycles: about a sixth of a second
    whole.y.copy_(content)
    with torch.cuda.stream(torch.cuda.Stream()):
        assert_equal(on_cuda.submit([whole])(), expected)


def test_images_that_the_kernel_does_not_take_show_what_those_that_it_takes_show(on_cuda, images):
    """A tensor on the device that is not contiguous goes through PyTorch, others a kernel."""
    turned = [torch.from_numpy(image).cuda().mT.contiguous().mT for image in images]
    assert not any(tensor.is_contiguous() for tensor in turned)
    assert not any(on_cuda._runner._is_ready(tensor) for tensor in turned)
    assert all(on_cuda._runner._is_ready(image) for image in images)
    assert_equal(on_cuda.detect(turned), on_cuda.detect(images))


def test_waiting_for_a_batch_leaves_the_core_alone(on_cuda, images):
    on_cuda.detect(images)
    with torch.cuda.stream(on_cuda._runner._stream):
        torch.cuda._sleep(600_000_000)  # cycles: about a third of a second
    wait = on_cuda.submit(images)
    began, began_cpu = time.perf_counter(), time.thread_time()
    wait()
    waited, worked = time.perf_counter() - began, time.thread_time() - began_cpu
    assert waited > 0.1
    assert worked < waited / 4


def test_a_thousand_batches_take_no_more_memory_than_a_hundred(on_cuda, images, planes):
    kinds = [*images[:3], *planes[:3]]

    def work(batches):
        waits = []
        for number in range(batches):
            first = number % 6
            waits.append(on_cuda.submit((kinds * 2)[first : first + 1 + number % 4]))
            if len(waits) == 2:
                waits.pop(0)()
        waits.pop()()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = work(100)
    assert work(1000) == before


def test_batches_that_the_gpu_has_no_memory_for_are_split(golden, caplog):
    images = list(golden["inputs"])
    detector = Detector.load(device="cuda")
    expected = detector.detect(images)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(detector.device).total_memory
    room = torch.cuda.memory_reserved() + (400 << 20)
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        found = detector.detect(images * 100)
        again = detector.detect(images * 100)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        del detector
        torch.cuda.empty_cache()
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert warnings
    assert all("images at once: batches are split into" in text for text in warnings)
    assert len(set(warnings)) == len(warnings)
    for start in range(0, len(found), 5):
        assert_same_things(found[start : start + 5], expected)
        assert_same_things(again[start : start + 5], expected)
