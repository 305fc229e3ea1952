"""Fine-tuning jobs: create, read, cancel, and everything a job leaves behind."""
