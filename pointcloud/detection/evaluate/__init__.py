"""Detection metrics that need neither a GPU nor a data set's own toolkit."""
