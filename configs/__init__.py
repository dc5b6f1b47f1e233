"""Presets of a run: each is a module whose `get_config()` changes some of the defaults.

A preset builds on another one by importing it, in this folder or in a file of your own:

    from configs import sleep_smollm2

    def get_config():
        c = sleep_smollm2.get_config()
        c.seeding.steps = 200
        return c
"""
