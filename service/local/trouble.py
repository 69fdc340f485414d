"""What can go wrong on one machine, in words for the person at the terminal."""


class LocalTrouble(Exception):
    """The service cannot be started here; the message says why and what helps."""
