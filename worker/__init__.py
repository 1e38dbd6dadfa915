"""ssd-worker: detections from cameras and recordings, published to Redis Streams."""
