"""What a function needs of other people's packages: requirements, what is installed here, what a Pod will lack."""
