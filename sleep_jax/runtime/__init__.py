"""Services of a running job: mesh, checkpoints, metrics, timers, progress, preemption, workdir."""
