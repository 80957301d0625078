"""Scripts that run in a frozen application before its own."""
