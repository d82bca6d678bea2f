"""Values, errors, settings, randomness and files: what every other room stands on."""
