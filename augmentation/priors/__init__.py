"""Prior pictures: their prompts, how they are drawn, sorted out and stored."""
