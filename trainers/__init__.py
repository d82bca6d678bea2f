"""What learns: one loop, and for each method a file that says what one step computes. Importing this costs nothing."""
