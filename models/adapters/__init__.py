"""Adapters: put into networks, taken out, merged, and read from and written to files."""
