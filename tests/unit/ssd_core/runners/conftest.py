"""A small network, and what it finds, for the tests of runners."""

import pytest

from tests.unit.ssd_core.cuda_runners import found_alone, observant, small


@pytest.fixture
def spec(tiny_spec):
    return small(tiny_spec)


@pytest.fixture
def network(tiny_model):
    return observant(tiny_model)


@pytest.fixture
def expect(network, spec):
    """What the network finds in images, one by one and without a runner."""
    known = {}

    def expect(images):
        for image in images:
            if id(image) not in known:  # the image is kept, so that its id stays its own
                known[id(image)] = image, found_alone(image, network, spec)
        return [known[id(image)][1] for image in images]

    return expect
