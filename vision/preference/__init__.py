"""Models of human preference for pictures."""
