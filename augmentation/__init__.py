"""What makes more of few pictures. Each part takes a `TrainingSet` and returns a `TrainingSet`."""
