"""Sub-commands of the appliance."""
