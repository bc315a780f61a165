"""The nine stages of a call, one file each, in the order of the architecture."""
