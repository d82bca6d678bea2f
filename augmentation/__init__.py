"""Data augmentation: each part takes a `TrainingSet` and returns a `TrainingSet`."""
