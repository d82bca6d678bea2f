"""`run.py check models`: each optional model on the disk, opened and tried on pictures whose contents are known.

A test with small random models shows that a model's class is opened and called rightly; whether a person's own files
hold a model that sees is shown here, on the person's machine.
"""
