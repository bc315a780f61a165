"""The trainer's commands; their modules import nothing heavy before they run."""
