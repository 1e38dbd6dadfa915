"""The pipeline: readers, batching, detection, events, and the records of its cameras."""
