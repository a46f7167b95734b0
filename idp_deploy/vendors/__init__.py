"""Vendors' own software, each optional and each in the child process: what it makes of a file, in its own words."""
