"""A stand-in for `preemption.Watch` that asks a run to stop again and again."""


class Hurry:
    """Asks to stop at every seventh poll: a phase without checkpoints of its own starts over after
    a stop, and with more frequent stops it would never end.
    """

    polls = 0

    def should_stop(self):
        self.polls += 1
        return self.polls % 7 == 0
