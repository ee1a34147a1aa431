"""What keeps a run from starting."""


class CannotRun(Exception):
    """The message is what the person at the terminal needs: what is missing, and how to get it."""
