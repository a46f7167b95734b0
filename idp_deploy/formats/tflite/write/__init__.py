"""Writing TFLite files."""
