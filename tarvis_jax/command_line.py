"""How every command of the project reads its flags, speaks to its user and ends.

Exit status: 0 done; 2 an error of the user's, told in one message on standard error; 3 training met a value that is not
finite; 4 another process of the training has ended; 5 a step needs more memory than a device has; 130 interrupted
(Ctrl-C); 143 training was ended by SIGTERM and the same command goes on; 1, with Python's traceback, a bug of ours.
`--debug` shows the traceback always.
"""

import argparse
import difflib
import logging as python_logging
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Sequence

DONE, BUG, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
_OURS = ("tarvis_jax", "input_pipeline", "kernels", "configs", "main", "__main__")


def run(main: Callable[[list[str]], None], arguments: Sequence[str] | None = None) -> int:
    """Calls `main(arguments)`; returns the exit status of the process, with the message printed.

    An error is the user's if it is
    - a ValueError that our own code raises: it is written for the user (one of a library means that we did not check
      what we gave to it: a bug);
    - an OSError: a file or folder that is absent, unreadable or unwritable;
    - the absence of a package that is not ours;
    - an exception with an attribute `exit_status`, which says how to end.
    Every other exception is a bug and is raised.

    Args:
      main: the command. `--debug` is taken out of its arguments.
      arguments: without the program's name; None takes those of the process.
    """
    # JAX would shorten tracebacks so that errors inside of it seem to be raised by us.
    os.environ.setdefault("JAX_TRACEBACK_FILTERING", "off")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        main([argument for argument in arguments if argument != "--debug"])
        return DONE
    except KeyboardInterrupt:
        message, status = "interrupted", INTERRUPTED
    except Exception as error:
        text = _message(error)
        if text is None:
            raise
        message, status = f"error: {text}", getattr(error, "exit_status", USER_ERROR)
        if debug:
            traceback.print_exception(error)
    print(message, file=sys.stderr)
    return status


def run_and_exit(main: Callable[[list[str]], None], finish: Callable[[int], bool] = lambda status: True) -> None:
    """Ends the process with the status that `run` gives.

    `finish` is called with the status when the message has been printed; if it returns False, the process ends at once.
    """
    try:
        status = run(main)
    except Exception as error:
        traceback.print_exception(error)
        status = BUG
    if not finish(status) or status == INTERRUPTED:
        # Threads of libraries (compiler, input pipeline) still work; they can crash while Python is taken down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are ValueErrors of one line; flags are never abbreviated."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> None:
        raise ValueError(f"{message} (--help lists the flags)")

    def parse_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            name = unknown[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(name, known, n=1)
            self.error(f"unknown argument {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return parsed


def start_logging(verbosity: int) -> None:
    """Log lines on standard error as "16:41:19 message"; `verbosity` is 0 for all, -1 for warnings and errors."""
    from absl import flags, logging  # not every command logs

    flags.FLAGS.mark_as_parsed()  # the logging library has flags of its own and warns of logging before they are read
    logging.use_absl_handler()
    logging.set_verbosity(verbosity)
    handler = logging.get_absl_handler()
    handler.setFormatter(_Lines())
    # The checkpoint library tells every step it takes; its warnings and errors stay.
    handler.addFilter(
        lambda record: record.levelno > python_logging.INFO or "orbax" not in pathlib.Path(record.pathname).parts
    )


class _Lines(python_logging.Formatter):
    def format(self, record: python_logging.LogRecord) -> str:
        level = "" if record.levelno <= python_logging.INFO else f"{record.levelname.lower()}: "
        text = f"{self.formatTime(record, '%H:%M:%S')} {level}{record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _message(error: Exception) -> str | None:
    """What to tell the user; None for a bug of ours."""
    if hasattr(error, "exit_status") or isinstance(error, ValueError) and _is_raised_by_us(error):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] not in _OURS:
        return f"this needs the Python package {error.name!r}, which is not installed (requirements.txt lists all)"
    return None


def _is_raised_by_us(error: Exception) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return frames[-1].f_globals.get("__name__", "").partition(".")[0] in _OURS
