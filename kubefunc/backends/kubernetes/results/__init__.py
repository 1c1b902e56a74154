"""How results and output leave a Pod, and how large arguments get into it."""
