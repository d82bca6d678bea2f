"""Models of which pictures people prefer."""
