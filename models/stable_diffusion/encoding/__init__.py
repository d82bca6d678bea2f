"""Into the denoiser and out: prompts and their tokens, pictures and their latents."""
