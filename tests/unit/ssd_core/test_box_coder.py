import torch
from hypothesis import given, settings, strategies as st

from ssd_core.box_coder import (
    MAX_LOG_SCALE,
    cxcywh_to_xyxy,
    decode_boxes,
    encode_boxes,
    xyxy_to_cxcywh,
)

DEFAULT_BOX = torch.tensor([0.5, 0.5, 0.2, 0.4])

centres = st.floats(0, 1)
sizes = st.floats(0.02, 1)  # no box is more than 1000/16 times larger than another
boxes = st.tuples(centres, centres, sizes, sizes).map(lambda box: torch.tensor(box).double())
weights = st.tuples(*[st.floats(0.5, 20)] * 4)


@settings(max_examples=200, deadline=None)
@given(boxes, boxes, weights)
def test_decode_is_the_exact_inverse_of_encode(box, default_box, weights):
    offsets = encode_boxes(box, default_box, weights)
    torch.testing.assert_close(
        decode_boxes(offsets, default_box, weights), box, atol=1e-12, rtol=1e-12
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=4, max_size=4), boxes)
def test_encode_is_the_exact_inverse_of_decode(offsets, default_box):
    offsets = torch.tensor(offsets).double()
    torch.testing.assert_close(
        encode_boxes(decode_boxes(offsets, default_box), default_box),
        offsets,
        atol=1e-9,
        rtol=1e-9,
    )


def test_encode_gives_the_hand_computed_offsets():
    box = torch.tensor([0.52, 0.46, 0.4, 0.2])
    # 10 * 0.02 / 0.2, 10 * -0.04 / 0.4, 5 * ln 2, 5 * ln 0.5
    expected = torch.tensor([1.0, -1.0, 3.4657359, -3.4657359])
    torch.testing.assert_close(encode_boxes(box, DEFAULT_BOX), expected, atol=1e-5, rtol=0)


def test_decode_gives_the_hand_computed_box():
    offsets = torch.tensor([1.0, -1.0, 3.4657359, -3.4657359])
    expected = torch.tensor([0.52, 0.46, 0.4, 0.2])
    torch.testing.assert_close(decode_boxes(offsets, DEFAULT_BOX), expected, atol=1e-6, rtol=0)


def test_weights_divide_the_offsets():
    offsets = torch.tensor([1.0, 2.0, 0.0, 0.0])
    decoded = decode_boxes(offsets, DEFAULT_BOX, weights=(4.0, 8.0, 1.0, 1.0))
    torch.testing.assert_close(decoded, torch.tensor([0.55, 0.6, 0.2, 0.4]))


def test_zero_offsets_decode_to_the_default_box():
    assert torch.equal(decode_boxes(torch.zeros(4), DEFAULT_BOX), DEFAULT_BOX)


def test_width_and_height_grow_at_most_1000_over_16_times():
    assert abs(MAX_LOG_SCALE - 4.135166556742356) < 1e-12
    decoded = decode_boxes(torch.tensor([0.0, 0.0, 1e4, 1e4]), DEFAULT_BOX)
    torch.testing.assert_close(decoded[2:], torch.tensor([12.5, 25.0]), atol=1e-4, rtol=0)


def test_the_clamp_acts_after_the_weights():
    just_below = torch.tensor([0.0, 0.0, 5 * 4.13, 5 * 4.14])
    decoded = decode_boxes(just_below, DEFAULT_BOX)
    # 0.2 * e^4.13 is below the limit, 0.4 * e^4.14 above it
    torch.testing.assert_close(decoded[2:], torch.tensor([12.435585, 25.0]), atol=1e-4, rtol=0)


def test_width_and_height_may_shrink_without_limit():
    decoded = decode_boxes(torch.tensor([0.0, 0.0, -100.0, -100.0]), DEFAULT_BOX)
    torch.testing.assert_close(
        decoded[2:], torch.tensor([0.2, 0.4]) * 2.0611536e-9, atol=0, rtol=1e-5
    )


def test_centres_may_leave_the_image():
    decoded = decode_boxes(torch.tensor([-50.0, 50.0, 0.0, 0.0]), DEFAULT_BOX)
    torch.testing.assert_close(decoded, torch.tensor([-0.5, 2.5, 0.2, 0.4]))


def test_boxes_of_a_batch_are_coded_one_by_one():
    offsets = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    default_boxes = torch.rand(7, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    decoded = decode_boxes(offsets, default_boxes)
    for image in range(3):
        for box in range(7):
            torch.testing.assert_close(
                decoded[image, box], decode_boxes(offsets[image, box], default_boxes[box])
            )


def test_centre_and_size_become_corners():
    corners = cxcywh_to_xyxy(torch.tensor([[0.5, 0.25, 0.5, 0.25]]))
    assert corners.tolist() == [[0.25, 0.125, 0.75, 0.375]]


def test_corners_become_centre_and_size():
    centre_size = xyxy_to_cxcywh(torch.tensor([[0.25, 0.125, 0.75, 0.375]]))
    assert centre_size.tolist() == [[0.5, 0.25, 0.5, 0.25]]
