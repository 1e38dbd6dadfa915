"""Architectures and the zoo of models."""
