"""The processes of a node: the agent, the keeper and its runners."""
