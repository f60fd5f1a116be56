"""Pages of the handbook, and what draws and checks them."""
