"""Parsers of option values: from Python values, and from the text of an environment variable.

A parser returns the normalised value (durations are seconds as float, quantities are Kubernetes' own texts) or
raises Refused with the fix. It does not know the name of the option: the layers add that.
"""
