"""Scripts that measure what the project claims; results are committed as dated JSON with their command."""
