"""Rewrites of a captured graph that several converters want: the numbers stay the same, the operators are theirs."""
