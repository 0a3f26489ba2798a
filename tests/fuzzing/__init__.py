"""Files that are nearly right, for every reader of what others wrote."""
