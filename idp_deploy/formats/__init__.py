"""The formats, a folder each: writing, reading, running. No folder enters another."""
