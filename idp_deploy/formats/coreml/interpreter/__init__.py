"""Core ML's operators in numpy and torch, for machines without Core ML."""
