"""The one exception that the user's own input can raise."""


class UserError(Exception):
    """Something in the user's input is wrong: one line that says what, where, and how to mend it.

    `cli` prints it to stderr and exits with code 2; the Python API lets it through.
    """
