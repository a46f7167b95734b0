"""ExecuTorch: a .pte is read as far as its public schema goes, and never written; docs/formats.md says why."""
