"""What a run will do and need, said before it begins: dry run and ahead-of-time compilation."""
