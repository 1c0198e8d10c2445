"""The command `acestage`, outside of the package, whose import takes a second: Ctrl-C is to end that, too."""

from __future__ import annotations

import signal


def main() -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # and not ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from acestage.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()
