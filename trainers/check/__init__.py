"""What is checked after each kind of training: columns, prompts and references of the question whether it learned."""
