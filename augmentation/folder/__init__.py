"""Picture folders as people keep them: pictures, their masks and captions, and what is none of these."""
