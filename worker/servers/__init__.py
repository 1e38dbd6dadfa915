"""Servers of the Redis protocol: their addresses, and the embedded Valkey."""
