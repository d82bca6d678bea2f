"""What benches share: rows, cached runs, parallel processes, statistics."""
