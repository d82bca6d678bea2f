"""The pocket's drawn world: scenes, their words, and pictures of them."""
