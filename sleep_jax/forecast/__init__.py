"""What a run will do and need, before it begins: dry run and ahead-of-time compilation."""
