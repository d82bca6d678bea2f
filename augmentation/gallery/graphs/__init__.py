"""The prompts of a ComfyUI graph: what nodes mean, and the way from a saved picture to the texts it was drawn with."""
