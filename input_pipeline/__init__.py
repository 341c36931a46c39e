"""Official dataset files -> records -> clips -> static-shaped numpy batches. Never imports the model."""
