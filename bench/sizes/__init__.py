"""Bytes of exported files."""
