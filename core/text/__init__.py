"""Text: prompts and their words, and files decoded to text."""
