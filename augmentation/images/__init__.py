"""Pictures: loaded, checked, cropped, sized, and combined into sets."""
