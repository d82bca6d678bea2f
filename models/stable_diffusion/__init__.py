"""Stable Diffusion 1.x, 2.x and XL: how they are told apart, loaded, named and prompted."""
