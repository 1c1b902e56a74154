"""What the command line does with a cluster: stateless, on the Jobs of any client."""
