"""A detector without a network, for tests."""

import torch

from ssd_core import MODELS, Detections


class FakeDetector:
    """Detects one object per image, whose box is as wide as the image's first value."""

    def __init__(self, device="cpu", *, takes_yuv=False, before=lambda images: None):
        self.spec = MODELS["ssd_mobilenet_v2_oid"]
        self.device = torch.device(device)
        self.hardware = device
        self.dtype = torch.float32
        self.digest = "sha256:00"
        self.score_threshold = 0.5
        self.implementation = "fused"
        self.takes_yuv = takes_yuv
        self.works_ahead = self.device.type == "cuda"
        self.default_batch = 16
        self.warmed_up = []
        self.submitted = []
        self._before = before

    def submit(self, images):
        self._before(images)
        self.submitted.append(images)
        return lambda: [self._found(image) for image in images]

    def compute_alike(self, batch):
        return batch

    def warm_up(self, batch):
        self.warmed_up.append(batch)

    def _found(self, image):
        box = torch.tensor([[0.0, 0.0, image.flat[0] / 100, 1.0]])
        return Detections(box * 100, torch.tensor([0.9]), torch.tensor([4]), ["Person"], box)
