"""One attempt in one process: load, call, pickle the outcome; and the process under supervision."""
