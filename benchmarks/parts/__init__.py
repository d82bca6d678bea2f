"""Parts of benches that are too long for one file; no benches of their own."""
