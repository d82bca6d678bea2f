"""Lists and sets of prompts that are drawn for an evaluation."""
