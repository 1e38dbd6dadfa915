"""Where events go: Redis Streams, files, and a list in memory. Sinks do not know one another."""
