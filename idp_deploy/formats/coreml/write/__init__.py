"""Writing Core ML packages."""
