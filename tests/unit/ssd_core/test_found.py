import numpy as np
import pytest
import torch

from ssd_core.found import Found, joined, packed, unpacked, unpadded

NAMES = ("background", "Cat", "Dog")


def decoded(counts, most=4, seed=0):
    """What decode_nms gives for images with so many detections: padded with zeros."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.rand(len(counts), most, 4, generator=generator)
    scores = torch.rand(len(counts), most, generator=generator)
    labels = torch.randint(1, 3, (len(counts), most), generator=generator)
    count = torch.tensor(counts)
    padding = torch.arange(most) >= count[:, None]
    for tensor in (boxes, scores, labels):
        tensor[padding] = 0
    return boxes, scores, labels, count


def assert_equal(one, other):
    assert one.counts == other.counts
    for name in ("boxes", "scores", "labels"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("counts", [[2], [0], [4, 0, 1, 3], [0, 0]])
def test_each_image_has_what_decode_nms_gave_it(counts):
    boxes, scores, labels, _ = padded = decoded(counts)
    sizes = [(100 + row, 300 + row) for row in range(len(counts))]
    found = unpadded(*padded).per_image(sizes, NAMES)
    assert [len(image) for image in found] == counts
    for row, (image, (height, width)) in enumerate(zip(found, sizes, strict=True)):
        count = counts[row]
        normalised = boxes[row, :count]
        assert torch.equal(image.boxes_normalised, normalised)
        assert torch.equal(image.boxes, normalised * torch.tensor([width, height, width, height]))
        assert torch.equal(image.scores, scores[row, :count])
        assert torch.equal(image.labels, labels[row, :count])
        assert image.names == [NAMES[label] for label in labels[row, :count]]
        assert (image.boxes.dtype, image.labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("counts", [[2], [0], [4, 0, 1, 3]])
def test_what_was_packed_comes_out_as_it_went_in(counts):
    padded = decoded(counts)
    rows = packed(*padded)
    assert rows.shape == (len(counts), 4 * 6 + 1)
    assert_equal(unpacked(rows.numpy()), unpadded(*padded))


def test_what_was_unpacked_outlives_the_rows():
    rows = packed(*decoded([3, 2])).numpy()
    found = unpacked(rows)
    before = found.boxes.clone()
    rows[:] = np.nan
    assert torch.equal(found.boxes, before)


def test_class_ids_and_counts_survive_fp32():
    boxes, scores, labels, count = decoded([3], most=1000)
    labels[0, :3] = torch.tensor([1, 600, 90_000])
    found = unpacked(packed(boxes, scores, labels, count).numpy())
    assert found.labels.tolist() == [1, 600, 90_000]
    assert found.counts == [3]


def test_batches_are_joined_in_order():
    parts = [unpadded(*decoded(counts, seed=seed)) for seed, counts in enumerate([[2, 0], [1]])]
    found = joined(parts)
    assert found.counts == [2, 0, 1]
    assert torch.equal(found.boxes, torch.cat([part.boxes for part in parts]))
    assert joined(parts[:1]) is parts[0]


def test_no_batch_has_no_images():
    none = joined([])
    assert isinstance(none, Found)
    assert none.per_image([], NAMES) == []
