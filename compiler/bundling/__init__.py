"""Make a bundle directory out of a model as it is found in the wild."""
