"""What benches share: runs that are kept, several processes, statistics."""
