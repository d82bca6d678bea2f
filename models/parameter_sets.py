"""The names of the sets of layers that a training may choose. Importing this costs nothing."""

PARAMETER_SETS = ("attention", "cross", "cross_kv", "self", "attention_ff", "feed_forward", "all", "none")
