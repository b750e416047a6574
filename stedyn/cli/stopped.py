"""The end of a command by an interrupt."""


class Stopped(Exception):
    """An interrupt, with the sentence that ends the command."""
