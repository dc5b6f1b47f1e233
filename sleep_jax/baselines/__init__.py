"""Methods that sleep is compared with, all of them on one loop (`finetune`)."""
