"""From a model file to a bundle that an appliance can serve."""
