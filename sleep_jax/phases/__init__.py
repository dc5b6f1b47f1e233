"""The phases of a day and its night, each a function from one `RunState` to the next."""
