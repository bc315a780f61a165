"""What a compilation was: compilation.json, its page, its picture, its statement."""
