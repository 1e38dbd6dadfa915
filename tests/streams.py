"""Reads a server's streams, and checks that they are complete."""

import json

from tests.conftest import stream_events


def events_of(client, camera):
    """The live events of a camera, oldest first."""
    return [json.loads(text) for text in stream_events(client, f"ssd:{{{camera}}}:detections")]


def frames_of(client, camera):
    return [e for e in events_of(client, camera) if e["type"] == "ssd.detections.v1"]


def states_of(client, camera):
    return [
        (e["data"]["state"], e["data"]["reason"])
        for e in events_of(client, camera)
        if e["type"] == "ssd.camera.v1"
    ]


def assert_whole(events):
    """In order, once, and without a gap: epochs rise, and in each seq counts from 0."""
    numbers = [(e["data"]["epoch"], e["data"]["seq"]) for e in events]
    assert numbers == sorted(set(numbers))
    by_epoch = {}
    for epoch, seq in numbers:
        by_epoch.setdefault(epoch, []).append(seq)
    for epoch, seqs in by_epoch.items():
        assert seqs == list(range(len(seqs))), epoch
