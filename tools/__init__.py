"""What `run.py` is made of: standard library only, never published, never imported by the pack."""
