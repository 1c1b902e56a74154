"""The same programs on the caller's machine: fork server, one-shot process, workers of a map."""
