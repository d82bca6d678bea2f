"""All that touches ComfyUI: its folders, progress, models and weights."""
