"""Ends a command: a user's error is printed in one line, other errors keep their traceback.

This module imports nothing that would delay ``--help``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lfads_torch.errors import UserError


@dataclass
class Outcome:
    """How a command ended.

    Attributes
    ----------
    status
        The exit status: 0 if all went well, 1 after a :class:`~lfads_torch.errors.UserError`, 130
        if the user interrupted the command.
    """

    status: int = 0


@contextmanager
def reporting_user_errors() -> Iterator[Outcome]:
    """Print a user's error as one line to stderr, and turn it into an exit status.

    The line is ``UserError: message``, with the name of the error's class. An interruption
    (Ctrl-C) is reported in the same way, by its own message or as "Interrupted.". Every other
    exception leaves the block with its traceback. Usage::

        with reporting_user_errors() as outcome:
            work()
        return outcome.status

    Yields
    ------
    Outcome
        Its ``status`` is valid after the block.
    """
    outcome = Outcome()
    try:
        yield outcome
    except UserError as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        outcome.status = 1
    except KeyboardInterrupt as interruption:
        print(f"\n{str(interruption) or 'Interrupted.'}", file=sys.stderr)
        outcome.status = 130
