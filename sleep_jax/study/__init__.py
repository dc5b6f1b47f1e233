"""What teachers write about what was read."""
