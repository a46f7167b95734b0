"""Prune, export sparse, prove, simulate and gate PyTorch models for phones and small boards."""
