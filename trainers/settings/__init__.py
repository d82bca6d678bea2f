"""Groups of settings that several trainings share. Importing this costs nothing."""
