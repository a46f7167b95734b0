"""The judging protocol: methods against each other at equal cost, paired by seed, cached run by run."""
