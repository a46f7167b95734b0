"""CompressedModel → an .aimodel."""
