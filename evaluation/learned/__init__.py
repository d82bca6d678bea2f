"""Whether a training learned its subject: what is drawn, what it shows in numbers, in words, and on one sheet."""
