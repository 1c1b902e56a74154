"""How the items of a submission end, and whether they are run again."""
