"""TFLite."""
