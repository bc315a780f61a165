"""What a checkpoint is worth: figures on a data set, and the score of a text."""
