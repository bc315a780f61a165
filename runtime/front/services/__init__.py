"""What each service answers once a call has passed the stages before dispatch."""
