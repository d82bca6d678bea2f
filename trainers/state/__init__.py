"""What a run leaves on disk: its folder, and the states it can go on from."""
