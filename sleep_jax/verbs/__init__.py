"""What a person does with a run: one module a verb."""
