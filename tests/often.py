"""The command line, with a checkpoint after every epoch, and every epoch in the database at once.

Else a kill would hardly ever meet a checkpoint of trials as short as those of tests.
"""

import sys

from search import processes


def main() -> int:
    """Runs the command line."""
    processes.SERVED.append("often_saved")
    # Trainers are forked from this process as it is now, as `rnn-search` does it.
    processes.prepare()
    from search import cli, stored_study

    stored_study.REPORT_SECONDS = 0.0
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
