"""Batches on a device: a pool of CPU cores, or CUDA with streams and graphs."""
