"""A thread for which others wait."""

import threading


class QuickThread(threading.Thread):
    """One that must not wait for anything, such as a terminal that is stopped: others do for it what may."""
