"""What a run needs around it: devices, checkpoints, figures, the command line."""
