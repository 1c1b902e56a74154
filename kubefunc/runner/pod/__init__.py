"""The programs of the two containers: the supervisor in ``main``, the data port in ``courier``."""
