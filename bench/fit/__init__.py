"""Pruning that knows the device, held against pruning that does not, at equal simulated latency."""
