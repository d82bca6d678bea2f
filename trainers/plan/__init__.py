"""What a training would do and need, told before it runs."""
