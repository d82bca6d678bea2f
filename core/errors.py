"""Errors that a person reads: what was wrong, the value seen, and what to do."""


class FewShotError(ValueError):
    """Raised for anything a person can mend. The message is shown on the node as it is."""
