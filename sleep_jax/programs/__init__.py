"""What the jitted functions of a run are called with, as shapes: nothing is read or computed."""
