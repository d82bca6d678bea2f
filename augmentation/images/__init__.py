"""Pictures as they come in: loaded, judged, cropped, sized, and combined into sets."""
