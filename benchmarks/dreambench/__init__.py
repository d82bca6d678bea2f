"""DreamBench on a person's own checkpoint: `run.py bench dreambench --base FILE --pictures FOLDER`.

The protocol of Ruiz et al. 2023 (github.com/google/dreambooth): for each subject 25 prompts, other ones for objects
than for live subjects, and 4 pictures of each. Three sides draw the same prompts from the same noise: plain LoRA
DreamBooth, Train Subject without settings, and Refine LoRA over that; the base, asked for the class alone, is the
floor, and the real pictures among themselves are the ceiling of likeness.

It has a command line of its own, since unlike other benches it measures what a person gives it.
"""
