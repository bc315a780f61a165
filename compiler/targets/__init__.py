"""The machines that a model is compiled for: named, described in a file, or this one."""
