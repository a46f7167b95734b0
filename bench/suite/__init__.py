"""Many small, different tasks, each run in seconds: settings are chosen on some of them and judged on the others."""
