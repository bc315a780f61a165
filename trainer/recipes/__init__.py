"""The ready recipes, as package data; `trainer.recipe.ready` reads them."""
