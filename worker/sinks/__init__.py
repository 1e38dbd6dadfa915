"""Where events go: Redis Streams, files, and a list in memory. No sink depends on another."""
