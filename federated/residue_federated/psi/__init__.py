"""Entity alignment by private set intersection."""
