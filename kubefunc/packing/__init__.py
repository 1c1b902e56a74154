"""From a function and its arguments to what travels: pickled values, the project's code, packages, the runner."""
