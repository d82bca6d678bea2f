"""Base models that ComfyUI has loaded: its own networks of any family, trained in place and left as they were."""
