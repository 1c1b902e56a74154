"""The cluster's words in, a finding out: why a Pod does not start, how it ended. No I/O."""
