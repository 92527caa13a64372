"""Video recipes: schema, data and model of each command."""
