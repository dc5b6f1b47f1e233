"""A watch for tests of stops."""


class Hurry:
    """Asks to stop at every seventh chance. A phase that keeps no place begins anew after a stop,
    and with more chances than that it would never end."""

    chances = 0

    def should_stop(self):
        self.chances += 1
        return self.chances % 7 == 0
