"""Extractors and diagnosis models, in PyTorch."""
