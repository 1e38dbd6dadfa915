"""A default box of its own for each object, on CUDA: one kernel for the rounds of ``matching``.

PyTorch takes twelve launches a round and a round per object, for a few numbers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def assign(keys: Tensor, wanted: Tensor, num_defaults: int) -> Tensor:
    """(B, N): the default box of each object, A for none.

    ``keys`` and ``wanted``, (B, N, K) int64 without gaps: of each object the default boxes that it
    overlaps most, in the order of their keys, which are higher for a better pair, differ between
    objects, and are negative where there is none. Takes the best pair, then the best of what is
    left, and so on.
    """
    images, objects, count = wanted.shape
    chosen = torch.empty(images, objects, dtype=torch.int64, device=wanted.device)
    with torch.cuda.device_of(wanted):
        assigning_kernel[(images,)](
            keys.contiguous(),
            wanted.contiguous(),
            chosen,
            objects,
            count,
            num_defaults,
            OBJECTS=triton.next_power_of_2(objects),
            num_warps=1,
        )
    return chosen


@triton.jit  # type: ignore[untyped-decorator]
def assigning_kernel(
    keys: tl.tensor,
    wanted: tl.tensor,
    chosen: tl.tensor,
    objects: tl.tensor,
    count: tl.tensor,
    num_defaults: tl.tensor,
    OBJECTS: tl.constexpr,
) -> None:
    """One image. Each object stands at a default box of its list; the best pair is looked at.

    If another object has its default box already, the object moves on to its next one.
    """
    image = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, OBJECTS)
    inside = index < objects
    row = (image * objects + index) * count
    place = index * 0
    key = tl.load(keys + row, mask=inside, other=-1)
    box = tl.load(wanted + row, mask=inside, other=-1)
    mine = tl.where(inside, num_defaults, -2).to(tl.int64)
    best = tl.max(key, 0)
    while best >= 0:
        looked_at = key == best
        wish = tl.max(tl.where(looked_at, box, -1), 0)
        taken = tl.max((mine == wish).to(tl.int32), 0) + index * 0  # one for each, as masks are
        mine = tl.where(looked_at & (taken == 0), wish, mine)
        place += looked_at.to(tl.int32)
        moves = looked_at & (taken == 1) & (place < count)
        key = tl.where(looked_at, tl.load(keys + row + place, mask=moves, other=-1), key)
        box = tl.where(looked_at, tl.load(wanted + row + place, mask=moves, other=-1), box)
        best = tl.max(key, 0)
    tl.store(chosen + image * objects + index, mine, mask=inside)
