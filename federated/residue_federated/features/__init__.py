"""Feature work: components that turn a party's table into another."""
