"""A run in the formats of other tools: absorbed into an ordinary model, or its slots alone."""
