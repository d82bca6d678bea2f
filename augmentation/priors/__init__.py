"""Prior pictures: prompts, sampling, selection and storage."""
